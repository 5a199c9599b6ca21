"""Why number formats are chosen by device: what a CPU without bfloat16 products takes.

    python benchmarks/number_formats.py
    python benchmarks/number_formats.py --revision ce1a3d0        # the same with older code
    python benchmarks/number_formats.py --stages slow-tests       # needs [test] and [serve-llama]

It needs the demo model. A CPU with AVX2 only is emulated: `ONEDNN_MAX_CPU_ISA=AVX2` takes its
products of bfloat16 away. Every stage runs in a process of its own with one thread, on the demo's
parent and a child without four of its attentions, both stored in bfloat16. It prints one JSON
object; the CPU-seconds of a stage include its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.machine import print_machine

ROOT = Path(__file__).parents[1]
STAGES = ("products", "distill", "distill-bf16", "evaluate", "serve-check")
# The tests whose parent is SmolLM2, and those of its children in llama.cpp.
SLOW_TESTS = ("tests/puzzle/test_demo.py", "tests/puzzle/serving/test_engines_slow.py")
SLOW_TESTS += ("-k", "test_demo or llama", "-m", "slow", "-q", "-n", "0")
SETS = {"all instructions": {}, "as AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}
WITHOUT_ATTENTION = (5, 11, 17, 23)
# Rows of a product like a prompt's and of one like a decode step's, and the width of both.
ROWS, WIDTH, REPEATS = (256, 8), 1024, 50


def make_models(folder: Path) -> None:
    """Writes parent, child and text."""
    import torch
    from common.demo_parent import open_demo_parent, without_attention

    from puzzle.demo import demo_text

    parent = open_demo_parent(folder / "unpacked", dtype="bfloat16")
    child = without_attention(parent, WITHOUT_ATTENTION, torch.bfloat16)
    child.save_pretrained(folder / "child")
    parent.tokenizer.save_pretrained(folder / "child")
    (unpacked,) = (folder / "unpacked" / "parent").iterdir()
    unpacked.rename(folder / "parent")
    (folder / "text.txt").write_text("\n\n".join(demo_text()[:60]), encoding="utf-8")


def product_rates() -> dict[str, float]:
    """Returns the Gflop/s of products with a square matrix, the best of some repetitions."""
    import torch

    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.ones(WIDTH, WIDTH, dtype=dtype)
        for rows in ROWS:
            x = torch.ones(rows, WIDTH, dtype=dtype)
            seconds = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                torch.nn.functional.linear(x, weight)
                seconds.append(time.perf_counter() - started)
            name = f"{rows} x {WIDTH} x {WIDTH}, {dtype}".replace("torch.", "")
            rates[name] = round(2e-9 * rows * WIDTH**2 / min(seconds), 1)
    return rates


def run_stage(options: argparse.Namespace) -> Any:
    """Runs one stage and returns its result as JSON values."""
    if options.stage == "products":
        from puzzle.hardware.format_speed import fast_format

        return {"Gflop/s": product_rates(), "choice": str(fast_format())}
    import puzzle

    folder = Path(options.folder)
    child, parent, text = folder / "child", folder / "parent", folder / "text.txt"
    if options.stage.startswith("distill"):
        config = puzzle.DistillConfig(
            tokens=options.steps * 2 * options.length,
            length=options.length,
            batch=2,
            micro_batch=2,
            optimizer="adamw",
            validation_windows=2,
            **({"mixed_precision": "bf16"} if options.stage == "distill-bf16" else {}),
        )
        with tempfile.TemporaryDirectory() as out:
            result = puzzle.distill(child, parent, text, config=config, validation=text, out=out)
        return {"loss": result.history[-1]["loss"]}
    if options.stage == "evaluate":
        return puzzle.evaluate(
            child, parent=parent, data=text, windows=options.windows, length=options.length
        ).to_dict()
    return str(puzzle.serve_check(child, engine="transformers"))


@contextmanager
def checkout(revision: str | None) -> Iterator[Path]:
    """Yields the root of the code to run: the working tree, or a revision of it."""
    if revision is None:
        yield ROOT
        return
    worktree = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "code"
        subprocess.run([*worktree, "add", "-q", "--detach", str(root), revision], check=True)
        try:
            yield root
        finally:
            subprocess.run([*worktree, "remove", "--force", str(root)], check=True)


def timed(stage: str, code: Path, folder: Path, settings: dict[str, str]) -> dict[str, Any]:
    """Returns the result of a stage that a process of its own runs, and its CPU-seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(code), **settings}
    command = [sys.executable, __file__, *sys.argv[1:], "--stage", stage, "--folder", str(folder)]
    if stage == "slow-tests":
        command = [sys.executable, "-m", "pytest", *SLOW_TESTS]
    before = os.times()
    done = subprocess.run(
        command, cwd=code, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    after = os.times()
    seconds = after.children_user + after.children_system
    seconds -= before.children_user + before.children_system
    last = done.stdout.splitlines()[-1]
    result = last if stage == "slow-tests" else json.loads(last)
    return {"cpu_seconds": round(seconds, 1), "result": result}


def parse_options() -> argparse.Namespace:
    """Reads the options; those of a stage's own process are hidden."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choices = (*STAGES, "slow-tests")
    parser.add_argument("--stages", nargs="+", choices=choices, default=list(STAGES))
    parser.add_argument("--revision", help="the code to run; by default the working tree")
    parser.add_argument("--steps", type=int, default=4, help="of distillation, two windows each")
    parser.add_argument("--windows", type=int, default=4, help="of the evaluation")
    parser.add_argument("--length", type=int, default=256, help="tokens of a window")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.revision and "slow-tests" in options.stages:
        parser.error("slow-tests are those of the working tree; leave out --revision")
    return options


def main() -> None:
    """Runs every stage with each set of instructions."""
    options = parse_options()
    if options.stage:
        print(json.dumps(run_stage(options)))
        return
    # What the processor multiplies per second does not depend on puzzle's revision.
    stages = [each for each in options.stages if each != "products" or not options.revision]
    report = {"machine": print_machine(), "revision": options.revision, "stages": {}}
    with tempfile.TemporaryDirectory() as name, checkout(options.revision) as code:
        make_models(Path(name))
        for label, settings in SETS.items():
            for stage in stages:
                report["stages"][f"{stage}, {label}"] = timed(stage, code, Path(name), settings)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
