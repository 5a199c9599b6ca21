"""What chooses best? Layouts of SmolLM2 by a dozen choosers, at equal size or equal decode time.

Run it with `nice python benchmarks/choosers.py --out choosers-run`: it resumes where it stopped.
For each budget it writes a JSON file (layouts, validation figures, CPU-seconds) into the run
directory, and the tables into choosers.md. With `--only 0.55` it runs only the budgets whose name
contains that, so that several can run side by side.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from common.demo_parent import open_demo_parent
from common.interactions import interacting
from common.machine import print_machine
from common.programs import choice_problem
from common.texts import docstrings

from puzzle.choice.around import TrustRegion, layout_of, successive_halving
from puzzle.choice.baselines import at_random, greedy, uniform, whole_layers
from puzzle.choice.layout_choice import best_of_pool, refined
from puzzle.choice.layout_kl import LayoutKL
from puzzle.costs.measured.sublayers import MeasuredCosts
from puzzle.library.build import build_library, heal
from puzzle.library.settings import LibraryConfig
from puzzle.library.streams import Streams
from puzzle.limits.scenario import Scenario
from puzzle.scoring.exact_scores import replace_one
from puzzle.scoring.fisher_scores import FisherConfig, fisher
from puzzle.scoring.hybrid_scores import HybridConfig, calibrated
from puzzle.scoring.influence import block_influence
from puzzle.scoring.scores import Scores
from puzzle.stages import Run
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, windows
from search_space import Layout, SearchSpace, counting
from solvers import ChoiceProblem, Limit, solve

DATA = DataConfig(fit_tokens=16384, score_tokens=1024, validation_tokens=8192)
ATTENTIONS, WIDTHS = ("gqa3", "gqa1", "none"), (1536, 1152, 768, 384)
LADDER = [f"gqa3+gated{width}" for width in WIDTHS] + ["gqa3+none", "none+none"]
EMPTY = "none+none"
PROBES = FisherConfig(probes=4, rounds=1)
SCENARIO = Scenario(batch=8, prompt_tokens=128, generated_tokens=128)
VALIDATION_WINDOWS = 16
ROUNDS, MOVES, POOL = 3, 60, 8


class Study:
    """Model, text, library and scores, each made on first use and kept on disk."""

    def __init__(self, out: str) -> None:
        self.workspace = Workspace(out)
        self.parent = open_demo_parent(self.workspace)
        self.machine = print_machine(dtype=self.parent.dtype, seed=DATA.seed)
        ffns = [*(f"gated{width}" for width in WIDTHS), "none"]
        self.space = SearchSpace.uniform(self.parent.shape, attentions=ATTENTIONS, ffns=ffns)
        self.cut = windows(_texts(Path(out) / "texts.json"), self.parent.tokenizer, DATA)
        self.own = Layout.parent(self.parent.shape)

    @cached_property
    def library(self):
        """The variants."""
        return build_library(self.parent, self.space, self.cut, workspace=self.workspace)

    def scores(self, how: str) -> Scores:
        """Scores by name."""
        place = (self.library, self.space, self.cut)
        if how == "cosine":
            return replace_one(*place, workspace=self.workspace, distance="cosine")
        if how == "fisher":
            return fisher(*place, workspace=self.workspace, config=PROBES)
        if how == "exact":
            return replace_one(*place, workspace=self.workspace)
        # As `hybrid` does, but reading the exact scores that are there already.
        exact = self.scores("exact")
        return calibrated(
            self.scores("fisher"), lambda keys: {k: exact[k[0]][k[1]] for k in keys}, HybridConfig()
        )

    @cached_property
    def measure(self) -> LayoutKL:
        """Measures on the score text."""
        return LayoutKL(self.library, self.cut.score)

    @cached_property
    def wider(self) -> LayoutKL:
        """Measures on the windows as well that chose the ridges of the fits."""
        train = Streams.split(len(self.cut.fit), LibraryConfig().held_out)
        return LayoutKL(self.library, torch.cat([self.cut.score, self.cut.fit[train:]]))

    @cached_property
    def judge(self) -> LayoutKL:
        """Measures on the validation text; nothing is chosen with it."""
        return LayoutKL(self.library, self.cut.validation[:VALIDATION_WINDOWS])

    @cached_property
    def costs(self) -> MeasuredCosts:
        """Measured seconds."""
        return MeasuredCosts.measure(self.parent, self.space, SCENARIO, workspace=self.workspace)

    @cached_property
    def influence(self) -> tuple[float, ...]:
        """Block influence of the layers."""
        return block_influence(self.parent, self.cut.score)


def _texts(path: Path) -> list[str]:
    # Reading all the packages takes a minute, so it is done once.
    if not path.exists():
        path.write_text(json.dumps(docstrings()), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Budget:
    """What layouts may cost.

    Args:
        resource: "parameters", "decode" (seconds) or "layers".
        share: Of the parent's blocks; for "layers" the number dropped.
    """

    resource: str
    share: float

    @property
    def name(self) -> str:
        """The budget in the report."""
        return f"{self.resource} {self.share:g}"

    def space(self, study: Study) -> SearchSpace:
        """Blocks that may be chosen."""
        if self.resource == "layers":
            return SearchSpace.preset(study.parent.shape, "no-op-only")
        return study.space

    def problem(self, study: Study, scores: Scores) -> ChoiceProblem:
        """The program for some scores."""
        space, shape = self.space(study), study.parent.shape
        rows = [space.blocks(layer) for layer in range(shape.layers)]
        if self.resource == "layers":
            # Whole layers only.
            rows = [(row[0], row[-1]) for row in rows]
        price = {
            "parameters": lambda b: float(counting.block_parameters(shape, b)),
            "decode": lambda b: study.costs.block_cost(0, b, SCENARIO)["decode_seconds"],
            "layers": lambda b: float(b.label != EMPTY),
        }[self.resource]
        whole = shape.layers * price(shape.parent_blocks[0])
        most = shape.layers - self.share if self.resource == "layers" else self.share * whole
        return choice_problem(
            rows,
            lambda layer, block: scores.kl(layer, block.label),
            {self.resource: lambda _, block: price(block)},
            [Limit(self.resource, at_most=most)],
        )


Chooser = Callable[[Study, Budget], tuple[str, ...]]


def additive(how: str) -> Chooser:
    """The program's optimum with some scores."""
    return lambda study, budget: solve(budget.problem(study, study.scores(how))).labels


def measured(step: Callable[..., Layout]) -> Chooser:
    """A step from the optimum with exact scores, decided by measured KL."""

    def run(study: Study, budget: Budget) -> tuple[str, ...]:
        problem = budget.problem(study, study.scores("exact"))
        start = layout_of(study.own, solve(problem).labels)
        layout = step(study, budget, problem, start)
        return tuple(block.label for block in layout.blocks)

    return run


def _pool(study: Study, budget: Budget, problem: ChoiceProblem, start: Layout) -> Layout:
    return best_of_pool(problem, start, study.measure, POOL)


def _pool_and_search(study: Study, budget: Budget, problem: ChoiceProblem, start: Layout) -> Layout:
    best = best_of_pool(problem, start, study.measure, POOL)
    return refined(problem, best, study.measure, MOVES)


def _portfolio(measure: str) -> Callable[..., Layout]:
    """The optima of other scores, and what ShortGPT would drop, beside the pool."""

    def step(study: Study, budget: Budget, problem: ChoiceProblem, start: Layout) -> Layout:
        others = [
            solve(budget.problem(study, study.scores("fisher"))).labels,
            whole_layers(problem, study.influence, empty=EMPTY),
        ]
        layouts = [layout_of(start, labels) for labels in others]
        decide: LayoutKL = getattr(study, measure)
        best = successive_halving([best_of_pool(problem, start, decide, POOL), *layouts], decide)
        return refined(problem, best, decide, MOVES)

    return step


def _refine(study: Study, budget: Budget, problem: ChoiceProblem, start: Layout) -> Layout:
    return refined(problem, start, study.measure, MOVES)


def _around(study: Study, budget: Budget, problem: ChoiceProblem, start: Layout) -> Layout:
    space, place = budget.space(study), study.workspace
    around = TrustRegion(problem=problem, space=space, rounds=ROUNDS)
    return around.improve(Run(workspace=place, parent=study.parent), start, study.measure)


def _both(study: Study, budget: Budget, problem: ChoiceProblem, start: Layout) -> Layout:
    # The trust region's layout is known by now: only the local search is added.
    labels = STATE[budget.name]["trust region"]["labels"]
    return refined(problem, layout_of(start, labels), study.measure, MOVES)


def second_round(study: Study, budget: Budget) -> tuple[str, ...]:
    """A local search in a library rebuilt on the stream of the first local search's child."""
    problem = budget.problem(study, study.scores("exact"))
    first = layout_of(study.own, STATE[budget.name][f"local search, {MOVES}"]["labels"])
    again = build_library(
        study.parent, study.space, study.cut, workspace=study.workspace, around=first
    )
    best = refined(problem, first, LayoutKL(again, study.cut.score), MOVES)
    return tuple(block.label for block in best.blocks)


def same_as(name: str) -> Chooser:
    """The layout of another chooser of the same budget."""
    return lambda study, budget: tuple(STATE[budget.name][name]["labels"])


def _drawn(seed: int) -> Chooser:
    return lambda study, budget: at_random(
        budget.problem(study, study.scores("hybrid")), seed=seed, share=0.98
    )


CHOOSERS: dict[str, Chooser] = {
    "random": _drawn(1),
    "uniform width": lambda s, b: uniform(b.problem(s, s.scores("hybrid")), LADDER),
    "whole layers, block influence": lambda s, b: whole_layers(
        b.problem(s, s.scores("hybrid")), s.influence, empty=EMPTY
    ),
    "greedy, hybrid": lambda s, b: greedy(b.problem(s, s.scores("hybrid"))),
    "additive cosine": additive("cosine"),
    "additive exact": additive("exact"),
    "additive Fisher": additive("fisher"),
    "additive hybrid": additive("hybrid"),
    "interactions, half": lambda s, b: interacting(s, b.problem(s, s.scores("hybrid")), 0.5),
    f"best of {POOL}": measured(_pool),
    f"local search, {MOVES}": measured(_refine),
    f"best of {POOL}, then search": measured(_pool_and_search),
    "portfolio, then search": measured(_portfolio("measure")),
    "the same on three times the text": measured(_portfolio("wider")),
    "trust region": measured(_around),
    "trust region, then search": measured(_both),
    "additive Fisher, healed": same_as("additive Fisher"),
    f"local search, {MOVES}, healed": same_as(f"local search, {MOVES}"),
    "second round, healed": second_round,
}
MEASURED = (f"best of {POOL}, then search", "portfolio, then search")
MEASURED += ("the same on three times the text",)
# A second round takes five minutes for each budget.
TIMED = tuple(name for name in CHOOSERS if name != "second round, healed")
DROPS = ("whole layers, block influence", "additive cosine", "additive exact", "additive hybrid")
DROPS += (f"best of {POOL}", f"local search, {MOVES}", "trust region")
DROPS += MEASURED
BUDGETS = {
    **{Budget("parameters", share): tuple(CHOOSERS) for share in (0.55, 0.7, 0.4, 0.85)},
    **{Budget("layers", count): DROPS for count in (8, 4)},
    **{Budget("decode", share): TIMED for share in (0.7, 0.55, 0.85, 0.4)},
}
STATE: dict[str, dict[str, dict]] = {}


@torch.no_grad()
def validate(judge: LayoutKL, layout: Layout) -> dict[str, float]:
    """Returns KL, perplexity and next-token agreement on the validation text."""
    x_BLD, sums = judge.residual(layout, len(judge.tokens)), torch.zeros(3)
    kl = judge.reference.kl(x_BLD).mean()
    for row, x_LD in enumerate(x_BLD):
        z, target = judge.head(x_LD).float(), judge.tokens[row, 1:]
        loss = torch.nn.functional.cross_entropy(z[:-1], target)
        agree = (z.argmax(-1) == judge.reference.distribution(row).argmax(-1)).float().mean()
        sums += torch.stack([kl, loss, agree]) / len(x_BLD)
    kl, loss, agree = sums.tolist()
    return {"kl": kl, "perplexity": math.exp(loss), "agreement": agree}


def run(study: Study, out: Path, only: str) -> None:
    """Fills the state, one chooser at a time."""
    for budget, names in BUDGETS.items():
        if only not in budget.name:
            continue
        entries = STATE.setdefault(budget.name, {})
        for name in names:
            if name in entries:
                continue
            started = time.process_time()
            labels = CHOOSERS[name](study, budget)
            seconds = time.process_time() - started
            layout = layout_of(study.own, labels)
            known = [
                entry["validation"]
                for other, entry in entries.items()
                if tuple(entry["labels"]) == labels and not other.endswith("healed")
            ]
            if name.endswith("healed"):
                child = heal(study.parent, layout, study.cut, workspace=study.workspace)
                text = study.cut.validation[:VALIDATION_WINDOWS]
                figures = validate(LayoutKL(child, text), layout)
            else:
                figures = known[0] if known else validate(study.judge, layout)
            entry = {"labels": labels, "cpu_seconds": round(seconds, 1), "validation": figures}
            problem = budget.problem(study, study.scores("exact"))
            choices = [row.index(one) for row, one in zip(problem.groups, labels, strict=True)]
            entry["predicted"], entry["resources"] = problem.evaluate(choices)
            entries[name] = entry
            report = {"machine": study.machine, "data": str(DATA), "choosers": entries}
            text = json.dumps(report, indent=1)
            (out / f"{budget.name}.json").write_text(text, encoding="utf-8")
            print(f"{budget.name}: {name}: {figures['kl']:.4f}  ({seconds:.0f} s)", flush=True)


def read(out: Path) -> None:
    """Reads the results of earlier runs."""
    for budget in BUDGETS:
        path = out / f"{budget.name}.json"
        if path.exists():
            entries = json.loads(path.read_text(encoding="utf-8"))["choosers"]
            for entry in entries.values():
                entry["labels"] = tuple(entry["labels"])
            STATE[budget.name] = entries


def tables() -> str:
    """Returns one markdown table per kind of budget: KL / perplexity / agreement."""
    parts = []
    for resource in ("parameters", "layers", "decode"):
        names = [b.name for b in BUDGETS if b.resource == resource and b.name in STATE]
        if not names:
            continue
        rows = [n for n in CHOOSERS if any(n in STATE[name] for name in names)]
        lines = [f"| chooser | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        lines += [f"| {row} | {' | '.join(_cell(name, row) for name in names)} |" for row in rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(budget: str, row: str) -> str:
    entry = STATE[budget].get(row)
    if entry is None:
        return ""
    figures = entry["validation"]
    return f"{figures['kl']:.3f} / {figures['perplexity']:.1f} / {figures['agreement']:.3f}"


def main() -> None:
    """Runs what is missing and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="choosers-run")
    parser.add_argument("--only", default="", help="part of a budget's name")
    options = parser.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    read(out)
    run(Study(options.out), out, options.only)
    read(out)
    (out / "choosers.md").write_text(tables(), encoding="utf-8")


if __name__ == "__main__":
    main()
