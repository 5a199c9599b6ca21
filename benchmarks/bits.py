"""Bits, widths and both under one budget of bytes: layouts of SmolLM2 for llama.cpp.

    OMP_NUM_THREADS=1 nice python benchmarks/bits.py --out bits-run
    OMP_NUM_THREADS=1 nice python benchmarks/bits.py --out bits-run --budgets q4_0 --healed
    OMP_NUM_THREADS=1 nice python benchmarks/bits.py --out bits-run --healed --after-healing
    OMP_NUM_THREADS=1 nice python benchmarks/bits.py --out bits-run --budgets q4_0 --time

One library and one table of Fisher scores of attention and FFN, in the parent's format and in those
of llama.cpp. For each budget, which is a share of the bytes that the layers take in float16, the
program's optimum among widths alone, among formats alone, among widths with one format for all, and
among both; beside them the uniform formats. Each child's KL is on validation text that chose
nothing, with the error of its mean over windows; a difference from "both" is paired by window. The
embedding is the same in all and not counted. What is in OUT/kls.json is not measured again.

Scores are of what is not healed, and healing makes up for more of what formats lose than of what
widths do. With `--after-healing`, formats count as much as healing left of one of them.

The demo's own file is in Q4_1: its dequantised weights are the parent. Formats with a minimum of
their own (q4_1, q5_1) share its grid and are left out; benchmarks/bits_formats.py checks what the
grid means for the others.

With `--time`, llama.cpp is calibrated with the halves of blocks of these layouts, and each is then
run there, too: seconds of decoding as a share of the parent's in float16, predicted and measured.
Then the optimum among both is found once more, of those predicted to be as fast as a uniform
format. What was timed is kept in OUT: begin with an idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common.demo_parent import as_child, open_demo_parent
from common.held_out import WindowKL
from common.machine import print_machine
from common.programs import OfBlock, choice_problem
from common.texts import docstrings

from puzzle.costs.calibrated.engine_costs import EngineCalibrated
from puzzle.costs.calibrated.engines.llama_cpp import LlamaCpp
from puzzle.library.build import build_library, heal
from puzzle.limits.scenario import Scenario
from puzzle.models.assembling import assemble
from puzzle.scoring.exact_scores import replace_some
from puzzle.scoring.fisher_scores import FisherConfig, fisher
from puzzle.storage.publishing import publishing_file
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
    "q4_0": 4.5 / 16,
    "0.9 q4_0": 0.9 * 4.5 / 16,
    "0.8 q4_0": 0.8 * 4.5 / 16,
    "q5_0": 5.5 / 16,
    "0.9 q5_0": 0.9 * 5.5 / 16,
    "q8_0": 8.5 / 16,
}
# "both" comes first, since others are compared with it.
LEVERS = ("both", "bits", "one format", "widths", "uniform")
CHECKED = (2, 15, 27)
SCENARIO = Scenario(batch=1, prompt_tokens=32, generated_tokens=24, weight_dtype="float16")
Chosen = Iterable[tuple[str, str, Layout]]


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


class Choosing:
    """The programs of a study.

    Args:
        halves: As `spaces` returns them.
        scores: Of each of them.
        left: What is counted of the part of the scores that formats add.
    """

    def __init__(
        self, halves: dict[str, SearchSpace], scores: dict[str, Any], left: float = 1.0
    ) -> None:
        self.halves, self.scores, self.left = halves, scores, left
        self.shape = halves["ffn"].shape
        self.own = self.shape.usual_block

    def optimum(self, levers: str, most: float, used: OfBlock | None = None) -> Layout | None:
        """Returns the layout of least score that uses no more than allowed, if any does.

        Args:
            levers: One of `LEVERS` or a format for all, but not "uniform".
            most: What the blocks may use together.
            used: What a layer's block uses; by default its bytes.
        """
        if levers == "one format":
            layouts = [self.optimum(name, most, used) for name in FORMATS]
            return min((one for one in layouts if one), key=self.score, default=None)
        use = used or (lambda _, block: counting.block_weight_bytes(self.shape, block, SERVED))
        rows = [
            [
                Block(attention, ffn)
                for attention in self.halves["attention"].attentions[layer]
                for ffn in self.halves["ffn"].ffns[layer]
                if self._allowed(attention, self.own.attention, levers)
                and self._allowed(ffn, self.own.ffn, levers)
            ]
            for layer in range(self.shape.layers)
        ]
        least = sum(min(use(layer, block) for block in row) for layer, row in enumerate(rows))
        if least > most:
            return None
        problem = choice_problem(rows, self._score, {"use": use}, [Limit("use", at_most=most)])
        return Layout(self.shape, tuple(map(Block.from_label, solve(problem).labels)))

    def score(self, layout: Layout) -> float:
        """Returns the sum of the scores of a layout's halves."""
        return sum(self._score(layer, block) for layer, block in enumerate(layout.blocks))

    def layouts(self, budgets: Iterable[str], levers: Iterable[str]) -> Chosen:
        """Yields (budget, levers, layout) where there is a layout.

        Args:
            budgets: Some of `BUDGETS`.
            levers: Some of `LEVERS`.
        """
        parent = Layout.parent(self.shape)
        for name in budgets:
            for each in levers:
                if each != "uniform":
                    layout = self.optimum(each, BUDGETS[name] * body_bytes(parent))
                else:
                    layout = uniform(self.shape, name) if name in FORMATS else None
                if layout is not None:
                    yield name, each, layout

    def _allowed(self, half: Attention | FFN, own: Attention | FFN, levers: str) -> bool:
        if levers in FORMATS:
            return half.weights == levers or half.kind == "none"
        if levers == "widths":
            return half.weights is None
        return levers == "both" or half.unquantised == own

    def _score(self, layer: int, block: Block) -> float:
        fitted, rounded = (self._fisher(layer, one) for one in (block.unquantised, block))
        return fitted + self.left * (rounded - fitted)

    def _fisher(self, layer: int, block: Block) -> float:
        attention = Block(block.attention, self.own.ffn).label
        ffn = Block(self.own.attention, block.ffn).label
        attention_kl: float = self.scores["attention"].kl(layer, attention)
        return attention_kl + float(self.scores["ffn"].kl(layer, ffn))


def body_bytes(layout: Layout) -> float:
    """Returns the bytes of a layout's layers."""
    return sum(counting.block_weight_bytes(layout.shape, b, SERVED) for b in layout.blocks)


def uniform(shape: Any, name: str) -> Layout:
    """Returns the parent's layout with one format in all layers."""
    own = shape.usual_block
    attention = Attention("gqa", own.attention.kv_heads, weights=name)
    block = Block(attention, FFN("gated", own.ffn.width, weights=name))
    return Layout(shape, (block,) * shape.layers)


def described(layout: Layout) -> dict[str, Any]:
    """Returns the bytes of a layout, and how many sublayers have each format."""
    halves = [half for b in layout.blocks for half in (b.attention, b.ffn)]
    parent = Layout.parent(layout.shape)
    fixed = counting.fixed_parameters(layout.shape)
    kept = (layout.parameters() - fixed) / (parent.parameters() - fixed)
    counts = {
        str(name): sum(h.weights == name and h.kind != "none" for h in halves)
        for name in (None, *FORMATS)
    }
    return {
        "bytes": round(body_bytes(layout) / body_bytes(parent), 4),
        "parameters": round(kept, 3),
        "formats": counts,
        "removed": sum(h.kind == "none" for h in halves),
    }


class Study:
    """Parent, text, library and scores of a run directory.

    Args:
        out: The run directory.
        seed: Of the order of the documents, so that each has text of its own.
    """

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed, self.workspace = out, seed, Workspace(out)
        self.parent = open_demo_parent(self.workspace, dtype="float32")
        texts = out / "texts.json"
        if not texts.exists():
            texts.write_text(json.dumps(docstrings()), encoding="utf-8")
        text = json.loads(texts.read_text(encoding="utf-8"))
        self.cut = windows(text, self.parent.tokenizer, replace(DATA, seed=seed))
        self.judge = WindowKL(as_child(self.parent), self.cut.validation)
        # Nothing is fitted for a format, so that the library of the FFNs has the attentions, too.
        halves = spaces(self.parent.shape)
        self.library = self._timed(
            "library",
            lambda: build_library(self.parent, halves["ffn"], self.cut, workspace=self.workspace),
        )
        scores = {
            name: self._timed(f"scores of {name}", lambda space=space: self._fisher(space))
            for name, space in halves.items()
        }
        self.choosing = Choosing(halves, scores)

    def check_scores(self) -> None:
        """Prints Fisher scores of formats beside exact ones, in a few layers."""
        own = self.choosing.own
        blocks = [Block(own.attention, replace(own.ffn, weights=name)) for name in FORMATS]
        exact = replace_some(
            self.library, dict.fromkeys(CHECKED, blocks), self.cut, workspace=self.workspace
        )
        for layer, row in exact.items():
            pairs = {
                label: (round(one.kl, 6), round(self.choosing.scores["ffn"].kl(layer, label), 6))
                for label, one in row.items()
            }
            print(json.dumps({"layer": layer, "exact_and_fisher": pairs}), flush=True)

    def after_healing(self) -> Choosing:
        """Returns programs that count only as much of the formats as healing leaves of one.

        That is measured on the text of the scores, with the smallest format in all layers.
        """
        layout = uniform(self.parent.shape, FORMATS[-1])
        judge = WindowKL(as_child(self.parent), self.cut.score)
        kl = float(judge(self._child(layout, healed=True)).mean())
        left = kl / self.choosing.score(layout)
        print(json.dumps({"left of formats by healing": round(left, 4)}), flush=True)
        return Choosing(self.choosing.halves, self.choosing.scores, left)

    def measure(self, chosen: Chosen, *, healed: bool) -> None:
        """Prints the KL of each child, if wished with its blocks fitted to the child's stream."""
        both: dict[str, torch.Tensor] = {}
        for budget, levers, layout in chosen:
            kls = torch.tensor(self._kls(layout, healed))
            report = {"seed": self.seed, "budget": budget, "levers": levers, "healed": healed}
            report |= {"kl": round(float(kls.mean()), 5), "error": _error(kls)}
            report["score"] = round(self.choosing.score(layout), 5)  # of what is not healed
            if levers == "both":
                both[budget] = kls
            elif budget in both:
                more = kls - both[budget]
                report |= {"more": round(float(more.mean()), 5), "paired_error": _error(more)}
            print(json.dumps(report | described(layout)), flush=True)

    def time(self, chosen: Chosen) -> None:
        """Prints the seconds of decoding of each layout in llama.cpp, in turns with the parent.

        Then the KL of layouts that are predicted to decode as fast as the uniform ones.
        """
        layouts = list(chosen)
        space = used_space([layout for _, _, layout in layouts])
        costs = EngineCalibrated.measure(
            LlamaCpp(threads=1, clock="cpu", rounds=2),
            self.parent,
            space,
            SCENARIO,
            workspace=self.workspace,
            max_layouts=24,
        )
        print(json.dumps({"calibration": costs.to_dict()["error"]}), flush=True)
        for place in layouts:
            self._report_times(costs, *place)
        halves = {"attention": space, "ffn": space}
        choosing = Choosing(halves, self.choosing.scores)
        for budget, levers, layout in layouts:
            if levers == "uniform":
                fast = choosing.optimum("both", blocks_seconds(costs, layout), seconds_of(costs))
                assert fast is not None  # the uniform layout is one
                self._report_times(costs, f"seconds of {budget}", "both", fast)
                self.measure([(f"seconds of {budget}", "both", fast)], healed=False)

    @staticmethod
    def _report_times(costs: EngineCalibrated, budget: str, levers: str, layout: Layout) -> None:
        seconds = costs.timed(layout)
        fixed = costs.fixed_cost(layout.shape, SCENARIO)["decode_seconds"]
        predicted, parent = (
            fixed + blocks_seconds(costs, each) for each in (layout, Layout.parent(layout.shape))
        )
        ratio = seconds["child"]["decode_seconds"] / seconds["parent"]["decode_seconds"]
        report = {"budget": budget, "levers": levers, "measured": round(ratio, 4)}
        print(json.dumps(report | {"predicted": round(predicted / parent, 4)}), flush=True)

    def _fisher(self, space: SearchSpace) -> Any:
        config = FisherConfig(rounds=1)
        return fisher(self.library, space, self.cut, workspace=self.workspace, config=config)

    def _kls(self, layout: Layout, healed: bool) -> list[float]:
        path = self.out / "kls.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        labels = ",".join(block.label for block in layout.blocks)
        key = hashlib.sha256(f"{self.seed} {healed} {labels}".encode()).hexdigest()[:16]
        if key not in known:
            known[key] = self.judge(self._child(layout, healed)).tolist()
            with publishing_file(path) as fresh:
                fresh.write_text(json.dumps(known), encoding="utf-8")
        kls: list[float] = known[key]
        return kls

    def _child(self, layout: Layout, healed: bool) -> Any:
        library = self.library
        if healed:
            library = heal(self.parent, layout, self.cut, workspace=self.workspace)
        tensors = library.child_tensors(layout)
        return assemble(self.parent.config, layout, tensors, dtype=self.parent.dtype)

    @staticmethod
    def _timed(name: str, made: Any) -> Any:
        started = time.process_time()
        result = made()
        seconds = round(time.process_time() - started)
        print(json.dumps({"made": name, "cpu_seconds": seconds}), flush=True)
        return result


def used_space(layouts: list[Layout]) -> SearchSpace:
    """Returns the space of the halves that layouts have, and of the parent's."""
    shape = layouts[0].shape
    blocks = [shape.usual_block, *(block for one in layouts for block in one.blocks)]
    return SearchSpace.uniform(
        shape,
        attentions=dict.fromkeys(block.attention for block in blocks),
        ffns=dict.fromkeys(block.ffn for block in blocks),
    )


def seconds_of(costs: EngineCalibrated) -> OfBlock:
    """Returns the predicted seconds of decoding of a layer's block, as a function of both."""
    return lambda layer, block: costs.block_cost(layer, block, SCENARIO)["decode_seconds"]


def blocks_seconds(costs: EngineCalibrated, layout: Layout) -> float:
    """Returns the predicted seconds of decoding of a layout's blocks."""
    return sum(itertools.starmap(seconds_of(costs), enumerate(layout.blocks)))


def _error(values: torch.Tensor) -> float:
    return round(float(values.std() / len(values) ** 0.5), 5)


def main() -> None:
    """Runs what is not there yet and prints each result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bits-run"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budgets", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--levers", nargs="+", choices=LEVERS, default=LEVERS)
    parser.add_argument("--healed", action="store_true", help="heal each child")
    parser.add_argument("--after-healing", action="store_true", help="score formats as healed")
    parser.add_argument("--check", action="store_true", help="check scores against exact ones")
    parser.add_argument("--time", action="store_true", help="time the layouts in llama.cpp")
    options = parser.parse_args()
    study = Study(options.out, options.seed)
    print_machine(dtype=study.parent.dtype, seed=options.seed)
    if options.check:
        study.check_scores()
        return
    choosing = study.after_healing() if options.after_healing else study.choosing
    chosen = choosing.layouts(options.budgets, options.levers)
    if options.time:
        study.time(chosen)
    else:
        study.measure(chosen, healed=options.healed)


if __name__ == "__main__":
    main()
