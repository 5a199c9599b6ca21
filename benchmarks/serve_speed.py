"""Prefill and decode speed of SmolLM2 and a child of it in llama.cpp, f16 and q8_0.

    python benchmarks/serve_speed.py [--child DIR] [--rounds 3] [--costs out/costs]

Tokens per CPU-second of one thread, in a process per measurement, parent and child taking turns.
Without --child the child is one with a fixed layout, its weights fitted on little text: its speed
is that of any child of that layout, its answers are not. With --costs, the run directory of
costs_llama_cpp.py, what those costs predict for the same layout is printed beside it; give the
prompt and the tokens of that run.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common.cost_checks import PARENT, SHAPE, SPACE
from common.demo_parent import as_child, open_demo_parent
from common.machine import PACKAGES, print_machine, spread

import puzzle.serving.runners
from puzzle.costs.calibrated.engine_costs import EngineCalibrated
from puzzle.costs.calibrated.engines import LlamaCpp
from puzzle.costs.checked import layout_cost
from puzzle.demo import demo_text
from puzzle.library.build import build_library
from puzzle.limits.scenario import Scenario
from puzzle.models.assembling import assemble
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.parent import Parent
from puzzle.serving.check import run_engine
from puzzle.serving.exporting import export
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, windows
from search_space import Block, Layout, SearchSpace, counting

RUNNER = Path(puzzle.serving.runners.__file__).with_name("run_llama_cpp.py")


def fixed_layout(parent: Parent) -> Layout:
    """Returns six layers without attention, eleven with one KV head, 18 FFNs of half the width."""
    layout = Layout.parent(parent.shape)
    for layer in range(1, parent.shape.layers - 1):
        attention = "none" if layer % 5 == 2 else "gqa1" if layer % 2 else "gqa3"
        ffn = "gated768" if 6 <= layer < 24 else "gated1536"
        layout = layout.replace(layer, Block.from_label(f"{attention}+{ffn}"))
    return layout


def fixed_child(parent: Parent, workspace: Workspace) -> PuzzleForCausalLM:
    """Returns the child of the fixed layout."""
    space = SearchSpace.from_options(
        parent.shape, attention=["gqa", "none"], ffn="gated", ffn_shares=[0.5], keep=[0, -1]
    )
    data = DataConfig(window=64, fit_tokens=1024, score_tokens=128, validation_tokens=128)
    library = build_library(
        parent, space, windows(demo_text(), parent.tokenizer, data), workspace=workspace
    )
    layout = fixed_layout(parent)
    return assemble(parent.config, layout, library.child_tensors(layout), dtype=parent.dtype)


def speed(file: Path, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
    """Returns prefill and decode tokens per CPU-second, measured in a new process."""
    request = {
        "model": str(file),
        "prompt": [1, 2, 3],
        "text": list(range(1000, 1064)),
        "first": 64,
        "top": 1,
        "new_tokens": 1,
        "speed": {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "repeats": 1},
        "end": None,
        "clock": "cpu",
        "context": prompt_tokens + new_tokens + 64,
        "threads": 1,
        "exact": False,
    }
    answer = run_engine(RUNNER, request)
    return answer.prefill[0], answer.decode[0]


def report(files: dict[str, Path], options: argparse.Namespace) -> None:
    """Measures the files in turn and prints medians, ranges and ratios."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in files}
    for _ in range(options.rounds):
        for name, file in files.items():
            rates[name].append(speed(file, options.prompt, options.new))
    medians = {}
    for name, file in files.items():
        spreads = [spread(column) for column in zip(*rates[name], strict=True)]
        medians[name] = [each["median"] for each in spreads]
        shown = ["{median:.1f} ({least:.1f} to {most:.1f})".format(**each) for each in spreads]
        print(
            f"{name}: {file.stat().st_size / 2**20:.0f} MiB; prefill {shown[0]}; decode {shown[1]}"
        )
    parent, child = medians.values()
    print(
        "child / parent: " + ", ".join(f"{c / p:.2f}" for c, p in zip(child, parent, strict=True))
    )


def predict(kind: str, layout: Layout, options: argparse.Namespace) -> None:
    """Prints the gains that calibrated costs predict; what was run for them is not run again."""
    scenario = Scenario(batch=1, prompt_tokens=options.prompt, generated_tokens=options.new)
    engine = LlamaCpp(weights=kind, threads=1, rounds=3, clock="cpu")
    workspace = Workspace(options.costs)
    costs = EngineCalibrated.measure(engine, PARENT, SPACE, scenario, workspace=workspace)
    totals = [layout_cost(costs, each, scenario) for each in (Layout.parent(SHAPE), layout)]
    gains = [totals[0][name] / totals[1][name] for name in ("prefill_seconds", "decode_seconds")]
    print(f"predicted child / parent: {gains[0]:.2f}, {gains[1]:.2f}  ({costs!r})")


def main() -> None:
    """Measures both quantisations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", type=Path, help="directory of a saved child")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--costs", type=Path, help="run directory of costs_llama_cpp.py")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace(Path(name) / "run")
        parent = open_demo_parent(workspace)
        print_machine(dtype=parent.dtype, packages=(*PACKAGES, "xllamacpp"))
        sources = {
            "parent": as_child(parent),
            "child": options.child or fixed_child(parent, workspace),
        }
        for kind in ("f16", "q8_0"):
            done = {
                f"{who} {kind}": export(
                    source,
                    Path(name) / f"{who}-{kind}",
                    engine="llama.cpp",
                    quantisation=kind,
                    tokenizer=parent.tokenizer,
                )
                for who, source in sources.items()
            }
            report({who: each.path for who, each in done.items()}, options)
            if options.costs:
                predict(kind, done[f"child {kind}"].layout, options)
        parent_size, child_size = (counting.parameters(each.layout) for each in done.values())
        print(f"parameters as written, child / parent: {child_size / parent_size:.3f}")


if __name__ == "__main__":
    main()
