"""Bits, widths and both under one budget of bytes: layouts of SmolLM2 for llama.cpp.

    OMP_NUM_THREADS=1 nice python benchmarks/bits.py --out bits-run
    OMP_NUM_THREADS=1 nice python benchmarks/bits.py --out bits-run --time

One library and one table of Fisher scores of attention and FFN, in the parent's format and in those
of llama.cpp. For each budget, which is a share of the bytes that the layers take in float16, the
program's optimum among widths alone, among formats alone, and among both; beside them the uniform
formats. Each child's KL is on validation text that chose nothing, with the error of its mean over
windows; differences from the formats alone are paired by window. The embedding is the same in all
and not counted.

The demo's own file is in Q4_1: its dequantised weights are the parent. Formats with a minimum of
their own (q4_1, q5_1) share its grid and are left out; see docs/number-formats.md.

With `--time`, llama.cpp is calibrated with the same halves of blocks and each layout's seconds of
decoding are predicted, and the chosen ones timed in turns with the parent.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from common.demo_parent import as_child, open_demo_parent
from common.machine import print_machine
from common.programs import choice_problem
from common.texts import docstrings

from puzzle.costs.calibrated.engine_costs import EngineCalibrated
from puzzle.costs.calibrated.engines.llama_cpp import LlamaCpp
from puzzle.library.build import build_library, heal
from puzzle.limits.scenario import Scenario
from puzzle.models.assembling import assemble
from puzzle.scoring.exact_scores import replace_some
from puzzle.scoring.fisher_scores import FisherConfig, fisher
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, windows
from search_space import FFN, Attention, Block, LayerOptions, Layout, SearchSpace, counting
from solvers import Limit, solve

DATA = DataConfig(fit_tokens=6144, score_tokens=1024, validation_tokens=4096)
FORMATS = ("q8_0", "q5_0", "q4_0")
WIDTHS = (0.875, 0.75, 0.5)
SERVED = 2.0  # bytes of a weight without a format: float16
# The bytes of the layers as a share of those in float16: those of each format, and fewer.
BUDGETS = {
    "q8_0": 8.5 / 16,
    "q5_0": 5.5 / 16,
    "q4_0": 4.5 / 16,
    "0.9 q4_0": 0.9 * 4.5 / 16,
    "0.8 q4_0": 0.8 * 4.5 / 16,
}
CHECKED = (2, 15, 27)


def spaces(shape: Any) -> dict[str, SearchSpace]:
    """Returns the attentions alone and the FFNs alone, whose scores add up to those of blocks."""
    usual = LayerOptions(
        attention=(), ffn=("gated", "none"), ffn_shares=WIDTHS, multiple=32, weights=FORMATS
    )
    both = SearchSpace.from_options(shape, usual, attention="none")
    return {
        "attention": SearchSpace.uniform(shape, attentions=both.attentions[0]),
        "ffn": SearchSpace.uniform(shape, ffns=both.ffns[0]),
    }


def allowed(half: Attention | FFN, own: Attention | FFN, levers: str) -> bool:
    """Returns whether half a block may be chosen by "bits", "widths" or "both"."""
    if levers == "widths":
        return half.weights is None
    return levers == "both" or half.unquantised == own


def optimum(
    halves: dict[str, SearchSpace], scores: dict, levers: str, share: float
) -> Layout | None:
    """Returns the layout of least score within a share of the layers' bytes, if there is one."""
    shape = halves["ffn"].shape
    own = shape.usual_block
    rows = [
        [
            Block(attention, ffn)
            for attention in halves["attention"].attentions[layer]
            for ffn in halves["ffn"].ffns[layer]
            if allowed(attention, own.attention, levers) and allowed(ffn, own.ffn, levers)
        ]
        for layer in range(shape.layers)
    ]
    problem = choice_problem(
        rows,
        lambda layer, block: score(scores, layer, block),
        {"bytes": lambda _, block: counting.block_weight_bytes(shape, block, SERVED)},
        [Limit("bytes", at_most=share * body_bytes(Layout.parent(shape)))],
    )
    least = sum(min(counting.block_weight_bytes(shape, b, SERVED) for b in row) for row in rows)
    if least > share * body_bytes(Layout.parent(shape)):
        return None
    return Layout(shape, tuple(map(Block.from_label, solve(problem).labels)))


def score(scores: dict[str, Any], layer: int, block: Block) -> float:
    """Returns the sum of the scores of a block's halves."""
    own: Block = scores["own"]
    attention = scores["attention"].kl(layer, Block(block.attention, own.ffn).label)
    return attention + scores["ffn"].kl(layer, Block(own.attention, block.ffn).label)


def body_bytes(layout: Layout) -> float:
    """Returns the bytes of a layout's layers."""
    return sum(counting.block_weight_bytes(layout.shape, b, SERVED) for b in layout.blocks)


def uniform(shape: Any, name: str) -> Layout:
    """Returns the parent's layout with one format in all layers."""
    own = shape.usual_block
    attention = Attention("gqa", own.attention.kv_heads, weights=name)
    block = Block(attention, FFN("gated", own.ffn.width, weights=name))
    return Layout(shape, (block,) * shape.layers)


@torch.no_grad()
def window_kls(parent: Any, model: Any, tokens_BL: torch.Tensor) -> torch.Tensor:
    """Returns KL(parent || model) of each window, in nats per token."""
    kls = []
    for rows in tokens_BL.split(2):
        p, q = (each(rows).logits.float().log_softmax(-1) for each in (parent, model))
        kls.append((p.exp() * (p - q)).sum(-1).mean(1))
    return torch.cat(kls)


def figures(layout: Layout, kls: torch.Tensor, paired: torch.Tensor | None) -> dict[str, Any]:
    """Returns the KL of a layout, its bytes, and how many sublayers have each format."""
    halves = [half for b in layout.blocks for half in (b.attention, b.ffn)]
    counts = {
        str(name): sum(h.weights == name and h.kind != "none" for h in halves)
        for name in (None, *FORMATS)
    }
    report = {
        "kl": round(float(kls.mean()), 5),
        "error": round(float(kls.std() / len(kls) ** 0.5), 5),
        "bytes": round(body_bytes(layout) / body_bytes(Layout.parent(layout.shape)), 4),
        "parameters": round(_body(layout) / _body(Layout.parent(layout.shape)), 3),
        "formats": counts,
        "removed": sum(h.kind == "none" for h in halves),
    }
    if paired is not None:
        report["minus_bits"] = round(float(paired.mean()), 5)
        report["paired_error"] = round(float(paired.std() / len(paired) ** 0.5), 5)
    return report


def _body(layout: Layout) -> int:
    return layout.parameters() - counting.fixed_parameters(layout.shape)


def check_scores(run: dict[str, Any], scores: dict[str, Any]) -> None:
    """Prints Fisher scores of formats beside exact ones, in a few layers."""
    own = run["parent"].shape.usual_block
    blocks = [Block(own.attention, FFN("gated", own.ffn.width, weights=name)) for name in FORMATS]
    exact = replace_some(
        run["library"]["ffn"],
        dict.fromkeys(CHECKED, blocks),
        run["cut"],
        workspace=run["workspace"],
    )
    for layer, row in exact.items():
        pairs = {
            label: (round(one.kl, 6), round(scores["ffn"].kl(layer, label), 6))
            for label, one in row.items()
        }
        print(json.dumps({"layer": layer, "exact_and_fisher": pairs}), flush=True)


def prepared(out: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, SearchSpace]]:
    """Returns what is run on, the scores, and the spaces of halves."""
    workspace = Workspace(out)
    parent = open_demo_parent(workspace, dtype="float32")
    print_machine(dtype=parent.dtype, seed=DATA.seed)
    texts = out / "texts.json"
    if not texts.exists():
        texts.write_text(json.dumps(docstrings()), encoding="utf-8")
    cut = windows(json.loads(texts.read_text(encoding="utf-8")), parent.tokenizer, DATA)
    halves = spaces(parent.shape)
    libraries, scores = {}, {"own": parent.shape.usual_block}
    for name, space in halves.items():
        started = time.process_time()
        libraries[name] = build_library(parent, space, cut, workspace=workspace)
        scores[name] = fisher(
            libraries[name], space, cut, workspace=workspace, config=FisherConfig(rounds=1)
        )
        seconds = round(time.process_time() - started)
        print(json.dumps({"scored": name, "cpu_seconds": seconds}), flush=True)
    run = {"workspace": workspace, "parent": parent, "cut": cut, "library": libraries}
    return run, scores, halves


def layouts_of(
    halves: dict[str, SearchSpace], scores: dict[str, Any], only: str
) -> Iterable[tuple[str, str, Layout]]:
    """Yields (budget, levers, layout), formats alone before what is compared with them."""
    shape = halves["ffn"].shape
    for name, share in BUDGETS.items():
        if only and only not in name:
            continue
        if name in FORMATS:
            yield name, "uniform", uniform(shape, name)
        for levers in ("bits", "both", "widths"):
            if (layout := optimum(halves, scores, levers, share)) is not None:
                yield name, levers, layout


def measure(run: dict[str, Any], chosen: Iterable[tuple[str, str, Layout]]) -> None:
    """Prints the KL of each child, its blocks fitted to the child's own stream."""
    parent, cut, workspace = run["parent"], run["cut"], run["workspace"]
    reference, bits = as_child(parent), {}
    for budget, levers, layout in chosen:
        for healing in (False, True):
            library = run["library"]["ffn"]
            if healing:
                library = heal(parent, layout, cut, workspace=workspace)
            tensors = library.child_tensors(layout)
            child = assemble(parent.config, layout, tensors, dtype=parent.dtype)
            kls = window_kls(reference, child, cut.validation)
            if levers == "bits":
                bits[budget, healing] = kls
            base = bits.get((budget, healing))
            paired = None if base is None or levers == "bits" else kls - base
            report = {"budget": budget, "levers": levers, "healed": healing}
            print(json.dumps(report | figures(layout, kls, paired)), flush=True)


def timed(run: dict[str, Any], halves: dict[str, SearchSpace], chosen: Iterable[Any]) -> None:
    """Prints the seconds of decoding of each layout in llama.cpp, in turns with the parent."""
    scenario = Scenario(batch=1, prompt_tokens=64, generated_tokens=32, weight_dtype="float16")
    space = SearchSpace(halves["ffn"].shape, halves["attention"].attentions, halves["ffn"].ffns)
    costs = EngineCalibrated.measure(
        LlamaCpp(threads=1, clock="cpu", rounds=3),
        run["parent"],
        space,
        scenario,
        workspace=run["workspace"],
    )
    print(json.dumps({"calibration": costs.error}), flush=True)
    for budget, levers, layout in chosen:
        seconds = costs.timed(layout)
        ratio = seconds["child"]["decode_seconds"] / seconds["parent"]["decode_seconds"]
        report = {"budget": budget, "levers": levers, "decode_of_float16": round(ratio, 4)}
        print(json.dumps(report), flush=True)


def main() -> None:
    """Runs what is not there yet and prints each result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bits-run"))
    parser.add_argument("--only", default="", help="budgets whose names contain this")
    parser.add_argument("--time", action="store_true", help="time the layouts in llama.cpp")
    options = parser.parse_args()
    run, scores, halves = prepared(options.out)
    chosen = layouts_of(halves, scores, options.only)
    if options.time:
        timed(run, halves, chosen)
        return
    check_scores(run, scores)
    measure(run, chosen)


if __name__ == "__main__":
    main()
