"""What removed groups of heads are worth: layouts of SmolLM2 with them, and without.

    OMP_NUM_THREADS=1 nice python benchmarks/head_groups.py --seed 0 --out head-groups-run

One library and one table of Fisher scores of a space with merged heads ("gqa1") and with removed
groups ("gqa2h6", "gqa1h3"). For each budget the program's optimum without groups and with them,
and its KL on validation text that chose nothing; then the same of the healed children. Differences
are paired by stretches of text. It prints one JSON object a line, and resumes where it stopped.
The space has no linear sublayers, which few layouts choose and which take most of the time.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common.demo_parent import as_child, open_demo_parent
from common.machine import print_machine
from common.programs import choice_problem
from common.texts import docstrings

from puzzle.library.build import build_library, heal
from puzzle.models.assembling import assemble
from puzzle.scoring.fisher_scores import FisherConfig, fisher
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, windows
from search_space import Block, Layout, SearchSpace, counting
from solvers import Limit, solve

DATA = DataConfig(fit_tokens=4096, score_tokens=512, validation_tokens=4096)
STRETCH = 64
SHARES = (0.75, 0.5, 0.25)
MERGED, GROUPS = ("gqa1",), ("gqa2h6", "gqa1h3")
SPACES = {"without groups": GROUPS, "with groups": ()}  # what each leaves out
# Shares of the parent's: of the parameters of all layers, and of the bytes of the KV cache.
BUDGETS: tuple[dict[str, float], ...] = (
    {"parameters": 0.85},
    {"parameters": 0.7},
    {"parameters": 0.55},
    {"parameters": 0.7, "kv_cache": 0.5},
)


@torch.no_grad()
def stretch_kls(parent: Any, model: Any, tokens_BL: torch.Tensor) -> torch.Tensor:
    """Returns KL(parent || model) of each stretch of text, in nats per token."""
    kls = []
    for rows in tokens_BL.split(2):
        p, q = (each(rows).logits.float().log_softmax(-1) for each in (parent, model))
        kls.append((p.exp() * (p - q)).sum(-1).unflatten(1, (-1, STRETCH)).mean(-1).flatten())
    return torch.cat(kls)


def optimum(space: SearchSpace, scores: Any, left_out: tuple[str, ...], budget: dict) -> Layout:
    """Returns the layout of least score within a budget, without some attentions."""
    shape = space.shape
    rows = [
        [block for block in space.blocks(layer) if block.attention.label not in left_out]
        for layer in range(shape.layers)
    ]
    prices = {
        "parameters": lambda _, block: counting.block_parameters(shape, block),
        "kv_cache": lambda _, block: counting.block_kv_bytes_per_token(shape, block),
    }
    used = {name: prices[name] for name in budget}
    whole = {
        name: sum(price(layer, rows[layer][0]) for layer in range(shape.layers))
        for name, price in used.items()
    }
    problem = choice_problem(
        rows,
        lambda layer, block: scores.kl(layer, block.label),
        used,
        [Limit(name, at_most=share * whole[name]) for name, share in budget.items()],
    )
    return Layout(shape, tuple(map(Block.from_label, solve(problem).labels)))


def main() -> None:
    """Runs what is not there yet and prints each result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("head-groups-run"))
    parser.add_argument("--only", default="", help="budgets whose names contain this")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0, help="of the text")
    options = parser.parse_args()
    data = replace(DATA, seed=options.seed)
    workspace = Workspace(options.out)
    parent = open_demo_parent(workspace, dtype=options.dtype)
    print_machine(dtype=parent.dtype, seed=data.seed)
    texts = options.out / "texts.json"
    if not texts.exists():
        texts.write_text(json.dumps(docstrings()), encoding="utf-8")
    cut = windows(json.loads(texts.read_text(encoding="utf-8")), parent.tokenizer, data)
    space = SearchSpace.from_options(
        parent.shape, attention=("gqa", "groups", "none"), ffn=("gated", "none"), ffn_shares=SHARES
    )
    started = time.process_time()
    library = build_library(parent, space, cut, workspace=workspace)
    print(json.dumps({"library_cpu_seconds": round(time.process_time() - started)}))
    scores = fisher(library, space, cut, workspace=workspace, config=FisherConfig())
    reference = as_child(parent)
    for healing in (False, True):
        for budget in (each for each in BUDGETS if options.only in str(each)):
            seen: dict[Layout, torch.Tensor] = {}
            for name, left_out in SPACES.items():
                layout = optimum(space, scores, left_out, budget)
                if layout not in seen:
                    made = heal(parent, layout, cut, workspace=workspace) if healing else library
                    tensors = made.child_tensors(layout)
                    child = assemble(parent.config, layout, tensors, dtype=parent.dtype)
                    seen[layout] = stretch_kls(reference, child, cut.validation)
                kls, without = seen[layout], next(iter(seen.values()))
                report = {"seed": data.seed, "budget": budget, "space": name, "healed": healing}
                print(json.dumps(report | figures(layout, kls, kls - without)), flush=True)


def figures(layout: Layout, kls: torch.Tensor, paired: torch.Tensor) -> dict[str, Any]:
    """Returns the KL of a layout, what it is above that without groups, and what the layout has."""
    own = Layout.parent(layout.shape)
    fixed = counting.fixed_parameters(layout.shape)
    return {
        "kl": round(float(kls.mean()), 4),
        "error": round(float(kls.std() / len(kls) ** 0.5), 4),
        "difference": round(float(paired.mean()), 4),
        "paired_error": round(float(paired.std() / len(kls) ** 0.5), 4),
        "parameters": round((layout.parameters() - fixed) / (own.parameters() - fixed), 3),
        "kv_cache": round(layout.kv_bytes_per_token() / own.kv_bytes_per_token(), 3),
        "attentions": {
            label: sum(block.attention.label == label for block in layout.blocks)
            for label in ("gqa3", *MERGED, *GROUPS, "none")
        },
    }


if __name__ == "__main__":
    main()
