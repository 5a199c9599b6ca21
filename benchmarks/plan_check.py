"""Plans against real searches: are the seconds of a plan those that a search takes?

Plans and runs searches of random Llama models of three sizes, each in a process of its own with one
thread, and compares the CPU-seconds of the whole search with those of the plan, which follow from
rates measured in the same process. CPU-seconds depend less than others on what else runs:

    OMP_NUM_THREADS=1 python benchmarks/plan_check.py
    OMP_NUM_THREADS=1 python benchmarks/plan_check.py --effort default --sizes 384

It ends with 1 if one of them is apart by more than a factor of 1.5. With `--table`, what is planned
for Llama 3.1 and for a mixture of experts of 1T parameters on H100s, as the table of
docs/large-models.md:

    python benchmarks/plan_check.py --table
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from common.machine import print_machine
from scale import make_parent

if TYPE_CHECKING:
    from puzzle.estimates import Estimate
    from search_space import ModelShape

ALLOWED, WINDOW, DEPTH = 1.5, 128, 4
EFFORTS = ("fast", "default")
# Layers, hidden size, heads and FFN width.
LLAMAS = {
    "8B": (32, 4096, 32, 14336),
    "70B": (80, 8192, 64, 28672),
    "405B": (126, 16384, 128, 53248),
}
FLEETS, STAGES_OF, STORAGE = ("1xh100-sxm", "8xh100-sxm", "64xh100-sxm"), "8xh100-sxm", "12GB/s"


def compare(directory: Path, hidden: int, effort: str) -> dict[str, float]:
    """Returns the CPU-seconds of a search of a random parent and those that were planned."""
    import puzzle
    from puzzle.choice.layout_choice import effort_named
    from puzzle.limits.scenario import Scenario, Workload
    from puzzle.models import load_config, shape_of
    from puzzle.pipeline.planning import plan
    from puzzle.pipeline.steps import Steps
    from search_space import SearchSpace

    make_parent(directory, DEPTH, hidden=hidden, width=4 * hidden, tokens=2**14)
    data = puzzle.DataConfig(
        window=WINDOW, fit_tokens=8192, score_tokens=1024, validation_tokens=1024
    )
    steps = Steps(
        space=SearchSpace.preset(shape_of(load_config(directory / "parent")), "small"),
        workload=Workload.of(Scenario(weight_dtype="float32")),
        hardware="roofline:h100-sxm",
        effort=effort_named(effort),
    )
    planned = plan(steps, data, working="float32")
    started = time.process_time()
    puzzle.search(
        directory / "parent",
        directory / "text.txt",
        constraints=["parameters <= 0.8x"],
        hardware="roofline:h100-sxm",
        effort=effort,
        data=data,
        precision="float32",
        out=directory / "run",
    )
    taken = time.process_time() - started
    return {"planned": planned.seconds, "taken": taken}


def in_own_process(hidden: int, effort: str) -> dict[str, float]:
    """Returns what `compare` finds in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, __file__, "--within", name]
        command += ["--sizes", str(hidden), "--effort", effort]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def check(sizes: list[int], effort: str) -> int:
    """Prints the planned and the taken seconds of each size; returns 1 if any are apart."""
    print_machine(seed=0)
    code = 0
    for hidden in sizes:
        seconds = in_own_process(hidden, effort)
        ratio = seconds["taken"] / seconds["planned"]
        code |= not 1 / ALLOWED < ratio < ALLOWED
        print(
            f"hidden {hidden}, {DEPTH} layers, {effort}: planned {seconds['planned']:.1f} s, "
            f"taken {seconds['taken']:.1f} CPU-s, ratio {ratio:.2f}",
            flush=True,
        )
    return code


def print_table() -> None:
    """Prints what is planned on H100s: stage by stage on eight, then in all on one and more."""
    from puzzle.choice.layout_choice import effort_named
    from puzzle.limits.scenario import Scenario, Workload
    from puzzle.pipeline.fleet import Fleet
    from puzzle.pipeline.planning import plan
    from puzzle.pipeline.steps import Steps
    from puzzle.text.data_config import DataConfig
    from search_space import SearchSpace

    columns: dict[str, dict[str, str]] = {}
    for name, shape in shapes().items():
        experts = shape.parent_blocks[-1].ffn.kind == "moe"
        data = DataConfig(fit_tokens=2**20 if experts else 2**16, score_tokens=2**13)
        column = columns.setdefault(name, {})
        for effort in EFFORTS:
            steps = Steps(
                space=SearchSpace.preset(shape, "default"),
                workload=Workload.of(Scenario()),
                hardware="roofline:h100-sxm",
                effort=effort_named(effort),
            )
            for word in FLEETS:
                made = plan(steps, data, fleet=Fleet.named(word, STORAGE))
                if word == STAGES_OF and effort == "default":
                    column |= {f"{e.name}, {word}": _cell(e) for e in made.steps if e.seconds}
                hours, reads = made.seconds / 3600, made.reads / 1e12
                column[f"**all, `{effort}`, {word}**"] = (
                    f"{hours:.1f} h, {made.memory / 1e9:.0f} GB, disk {made.disk / 1e12:.2f} TB, "
                    f"reads {reads:.1f} TB"
                )
    rows = sorted(next(iter(columns.values())), key=lambda row: row.startswith("**"))
    print(f"| {' | '.join(['', *columns])} |\n{'|---' * (1 + len(columns))}|")
    for row in rows:
        print(f"| {' | '.join([row, *(column[row] for column in columns.values())])} |")


def _cell(step: Estimate) -> str:
    cell = f"{step.seconds / 3600:.2f} h, {step.memory / 1e9:.1f} GB"
    if step.disk:
        cell += f", disk {step.disk / 1e12:.2f} TB"
    return f"{cell}, reads {step.reads / 1e12:.1f} TB"


def shapes() -> dict[str, ModelShape]:
    """Returns the sizes of the models of the table."""
    from search_space import FFN, Attention, Block, ModelShape, SublayerCounts

    made = {}
    for name, (layers, hidden, heads, width) in LLAMAS.items():
        made[name] = ModelShape(
            layers=layers,
            hidden=hidden,
            heads=heads,
            head_dim=128,
            kv_heads=8,
            ffn_width=width,
            vocab=128256,
        )
    attention, hidden = Attention(kind="gqa", kv_heads=8), 7168
    mixture = Block(attention, FFN(kind="moe", width=2048, experts=384, top_k=8))
    dense = Block(attention, FFN(kind="gated", width=18432))
    made["1T, 384 experts"] = ModelShape(
        layers=61,
        hidden=hidden,
        heads=64,
        head_dim=128,
        kv_heads=8,
        ffn_width=18432,
        vocab=163840,
        blocks=(dense, *(mixture,) * 60),
        counts=SublayerCounts(
            attention=hidden + 2 * hidden * 64 * 128,
            kv_head=2 * 128 * hidden,
            ffn=hidden,
            channel=3 * hidden,
            attention_norm=hidden,
            ffn_norm=hidden,
            moe=hidden,
            expert=hidden,
            expert_channel=3 * hidden,
        ),
    )
    return made


def main() -> int:
    """Compares, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[384, 512, 640])
    parser.add_argument("--effort", choices=EFFORTS, default="fast")
    parser.add_argument("--table", action="store_true", help="the table of the documentation")
    parser.add_argument("--within", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.table:
        print_table()
        return 0
    if chosen.within:
        print(json.dumps(compare(Path(chosen.within), chosen.sizes[0], chosen.effort)))
        return 0
    return check(chosen.sizes, chosen.effort)


if __name__ == "__main__":
    sys.exit(main())
