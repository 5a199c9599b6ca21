"""What a variant's start and gradient steps are worth: an ablation on SmolLM2.

Starts: ours (closed form, FFNs behind removed attention coupled), ours with all FFNs decoupled,
and the Puzzle paper's (mean-pooled heads, W_O W_V, W_down W_up, sliced channels; no fit). Each with
0 or more tokens of blockwise local distillation. It reports the local error and the replace-one KL
of the variants of some layers, and the KL of whole children at two budgets.

    OMP_NUM_THREADS=1 python benchmarks/bld.py --out bld-run --tokens 0 16384 65536
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

from common.demo_parent import open_demo_parent
from common.machine import print_machine
from common.programs import choice_problem
from common.texts import docstrings

from puzzle.choice.layout_kl import LayoutKL
from puzzle.library.build import build_library
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.models.parent import Parent
from puzzle.scoring.exact_scores import replace_some
from puzzle.scoring.fisher_scores import fisher
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, Windows, windows
from search_space import Block, Layout, SearchSpace, counting
from solvers import Limit, solve

STARTS = {
    "ours": {"start": "fitted", "coupling": "removed"},
    "ours, decoupled": {"start": "fitted", "coupling": "none"},
    "Puzzle's": {"start": "puzzle", "coupling": "none"},
}
ATTENTIONS, FFNS = ["gqa1", "linear", "none"], ["gated768", "linear"]
# One change at a time, and the two that belong together where attention is gone.
BLOCKS = ["gqa1+gated1536", "linear+gated1536", "none+gated1536", "gqa3+gated768", "gqa3+linear"]
BLOCKS += ["none+gated768"]


def config_of(start: str, tokens: int) -> LibraryConfig:
    """Returns the settings of one row of the table."""
    bld = BLDConfig(tokens=tokens) if tokens else None
    return LibraryConfig(bld=bld, **STARTS[start])  # type: ignore[arg-type]


def local(
    parent: Parent, layers: list[int], cut: Windows, workspace: Workspace, config: LibraryConfig
) -> dict[str, Any]:
    """Returns the geometric means over layers of local errors and replace-one scores, by block."""
    keep = [layer for layer in range(parent.shape.layers) if layer not in layers]
    space = SearchSpace.uniform(parent.shape, attentions=ATTENTIONS, ffns=FFNS, keep=keep)
    library = build_library(parent, space, cut, workspace=workspace, config=config)
    blocks = [Block.from_label(label) for label in BLOCKS]
    scores = replace_some(library, dict.fromkeys(layers, blocks), cut, workspace=workspace)

    def mean(values: list[float]) -> float:
        return math.exp(statistics.fmean(math.log(max(value, 1e-9)) for value in values))

    names = sorted({name for layer in layers for name in library.errors(layer)})
    errors = {n: mean([library.errors(layer)[n].value for layer in layers]) for n in names}
    kl = {label: mean([scores[layer][label].kl for layer in layers]) for label in BLOCKS}
    return {"errors": {n: e for n, e in errors.items() if e > 1e-8}, "kl": kl}


def budget_layouts(
    parent: Parent, shares: list[float], cut: Windows, workspace: Workspace
) -> dict[float, Layout]:
    """Returns the layouts that Fisher scores of the closed-form library choose."""
    shape = parent.shape
    space = SearchSpace.uniform(shape, attentions=["gqa1", "none"], ffns=["gated768", "none"])
    library = build_library(parent, space, cut, workspace=workspace)
    scores = fisher(library, space, cut, workspace=workspace)
    rows = [space.blocks(layer) for layer in range(shape.layers)]
    whole = sum(counting.block_parameters(shape, row[0]) for row in rows)
    layouts = {}
    for share in shares:
        problem = choice_problem(
            rows,
            lambda layer, block: scores.kl(layer, block.label),
            {"parameters": lambda _, block: counting.block_parameters(shape, block)},
            [Limit("parameters", at_most=share * whole)],
        )
        labels = solve(problem).labels
        layouts[share] = Layout(shape, tuple(map(Block.from_label, labels)))
    return layouts


def main() -> None:
    """Runs the ablation and prints its tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", default="bld-run")
    options.add_argument("--tokens", type=int, nargs="+", default=[0, 16384, 65536, 262144])
    options.add_argument("--child-tokens", type=int, nargs="+", default=[0, 16384, 65536])
    options.add_argument("--layers", type=int, nargs="+", default=[3, 14, 24])
    options.add_argument("--budgets", type=float, nargs="+", default=[0.85, 0.7])
    options.add_argument("--fit-tokens", type=int, default=16384)
    args = options.parse_args()

    workspace = Workspace(args.out)
    parent = open_demo_parent(workspace)
    machine = print_machine(dtype=parent.dtype, seed=0)
    data = DataConfig(fit_tokens=args.fit_tokens, score_tokens=1024, validation_tokens=4096)
    cut = windows(docstrings(), parent.tokenizer, data)
    figures: list[dict[str, Any]] = []

    def note(row: dict[str, Any], start: float) -> None:
        figures.append({**row, "cpu_seconds": round(time.process_time() - start, 1)})
        print(json.dumps(figures[-1]), flush=True)
        report = {"machine": machine, "arguments": vars(args), "rows": figures}
        text = json.dumps(report, indent=1)
        Path(args.out, "figures.json").write_text(text, encoding="utf-8")

    for start in STARTS:
        for tokens in args.tokens:
            clock = time.process_time()
            means = local(parent, args.layers, cut, workspace, config_of(start, tokens))
            note({"start": start, "tokens": tokens, **means}, clock)
    layouts = budget_layouts(parent, args.budgets, cut, workspace)
    for share, layout in layouts.items():
        for start in STARTS:
            for tokens in args.child_tokens:
                clock = time.process_time()
                config = config_of(start, tokens)
                library = build_library(parent, layout, cut, workspace=workspace, config=config)
                kl = LayoutKL(library, cut.validation)(layout)
                row = {"budget": share, "start": start, "tokens": tokens, "kl": kl.to_dict()}
                note(row, clock)


if __name__ == "__main__":
    main()
