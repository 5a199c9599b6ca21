"""From a program to a layout: how much measuring goes into the choice is the effort."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from puzzle.choice.around import TrustRegion, layout_of, successive_halving
from puzzle.choice.candidates import other_candidates
from puzzle.choice.layout_kl import LAYOUTS_KEPT, LayoutKL
from puzzle.choice.sharpening import near_optimal
from puzzle.errors import DamagedArtifactError, DataError
from puzzle.estimates import Estimate, Sizes
from puzzle.library.build import Library
from puzzle.library.settings import LibraryConfig
from puzzle.library.streams import Streams
from puzzle.progress.bars import Count
from puzzle.scoring.exact_scores import exact_seconds, replaced_blocks
from puzzle.scoring.fisher_scores import FisherScores
from puzzle.scoring.scores import Score
from puzzle.stages import ArtifactStage, Run
from puzzle.storage.hashing import content_hash, hash_tensors
from puzzle.storage.json_files import interpreting
from puzzle.storage.json_values import as_list, as_number, as_text
from puzzle.storage.plain_values import count_of, make_plain
from puzzle.storage.workspace import Artifact, ArtifactRef
from puzzle.text.windows import Windows
from search_space import Layout, SearchSpace
from solvers import ChoiceProblem, Solution, problem_to_dict, refine

CHOICE = "choice.json"
METHODS = ("fisher", "hybrid", "near", "exact")
# Share of the blocks that a program's best layouts are made of, and how many times some of them
# are scored exactly until all are, for estimates.
NEAR_SHARE, NEAR_ROUNDS = 0.1, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What is measured before a layout is chosen.

    Args:
        pool: How many of the program's best layouts are measured, each different from the others
            in a tenth of the layers, and `other_candidates` beside them; with 1 the program's
            optimum is chosen unmeasured.
        rounds: Maximum number of trust-region rounds around the best (`puzzle.choice.around`).
        moves: Measurements of a local search after that (`solvers.refinement`).
        scores: What the program minimises: "fisher", "hybrid", "near" or "exact" scores. Near ones
            are exact for the blocks of the program's best `pool` layouts, and estimates for others.
    """

    pool: int = 1
    rounds: int = 0
    moves: int = 0
    scores: str = "fisher"

    def __post_init__(self) -> None:
        make_plain(self)
        for name, least in {"pool": 1, "rounds": 0, "moves": 0}.items():
            count_of(name, getattr(self, name), least=least)
        if self.scores not in METHODS:
            raise DataError(f"scores={self.scores!r}; allowed: {', '.join(METHODS)}")

    @property
    def measures(self) -> bool:
        """Whether layouts are measured at all."""
        return self.pool > 1 or self.rounds > 0 or self.moves > 0

    @property
    def most(self) -> int:
        """How many layouts are measured at most, beside `other_candidates`."""
        return (self.pool if self.pool > 1 else 0) + 2 * self.rounds + self.moves


EFFORTS: Mapping[str, Effort] = MappingProxyType(
    {
        "fast": Effort(),
        "default": Effort(pool=8, moves=60, scores="near"),
        "thorough": Effort(pool=8, rounds=6, moves=200, scores="exact"),
    }
)


def effort_named(name: str, scores: str | None = None) -> Effort:
    """Returns one of `EFFORTS`, with its own scores or with others.

    Args:
        name: Its name.
        scores: As for `Effort`; its own if not given.

    Raises:
        DataError: There is none of that name, or there are no such scores.
    """
    if name not in EFFORTS:
        raise DataError(f"effort={name!r}; allowed: {', '.join(EFFORTS)}")
    return EFFORTS[name] if scores is None else replace(EFFORTS[name], scores=scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The layout chosen.

    Args:
        layout: The layout.
        predicted: The sum of its blocks' scores.
        measured: Its KL to the parent on `choice_text`; None if it was not measured. It chose
            the layout, so on other text it is a little higher.
        tried: Measured KL of all layouts that were measured on the whole of that text, by their
            block labels.
    """

    layout: Layout
    predicted: float
    measured: Score | None = None
    tried: Mapping[tuple[str, ...], float] = field(default_factory=dict)


def choice_text(windows: Windows, held_out: float) -> torch.Tensor:
    """Returns what layouts are measured on: the score text, and the fit text's held-out windows.

    No weight was fitted to either. On the score text alone, which already chose the program's
    optimum, a search among many layouts would overfit.

    Args:
        windows: The text.
        held_out: Share of the fit windows that choose ridges.
    """
    return torch.cat([windows.score, windows.fit[Streams.split(len(windows.fit), held_out) :]])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayoutChoice(ArtifactStage[Choice]):
    """The layout that measures best among those that an effort considers.

    Args:
        problem: The program.
        optimum: Its solution.
        layers: The library's layers.
        space: The blocks of the problem.
        effort: How much is measured.
        held_out: As in the library's config.
    """

    kind: ClassVar[str] = "choice"
    format: ClassVar[int] = 4
    problem: ChoiceProblem
    optimum: Solution
    layers: tuple[ArtifactRef, ...]
    space: SearchSpace
    effort: Effort
    held_out: float = LibraryConfig().held_out

    @property
    def best(self) -> Layout:
        """The program's optimum as a layout."""
        return layout_of(Layout.parent(self.space.shape), self.optimum.labels)

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the choice depends on; of the text, the validation part is not used."""
        return {
            "effort": asdict(self.effort),
            # Whatever else a problem may come to hold is in its plain values, and so in the key.
            "problem": content_hash(problem_to_dict(self.problem)),
            "optimum": list(self.optimum.labels),
            "space": self.space.to_dict(),
            "library": [layer.key for layer in self.layers],
            "score": run.text.hash("score"),
            "text": hash_tensors({"text": choice_text(run.text, self.held_out)}),
            "solver": [run.solver, run.seed],
        }

    def result(self, run: Run) -> Choice:
        """Returns the choice; the program's optimum if nothing is measured."""
        if not self.effort.measures:
            return Choice(layout=self.best, predicted=self.optimum.objective)
        return self.load(run, run.build(self))

    def build(self, run: Run, directory: Path) -> None:
        """Measures the best of the program, steps around them, and moves."""
        library = Library(parent=run.parent, layers=tuple(map(run.workspace.find, self.layers)))
        with Count("layouts", "layout", self.effort.most) as count:
            measure = LayoutKL(library, choice_text(run.text, self.held_out), count)
            layout = self._searched(run, library, measure)
        tried = [
            [[block.label for block in each.blocks], score.kl]
            for each, score in measure.known.items()
        ]
        stored = {
            "layout": layout.to_dict(),
            "measured": measure(layout).to_dict(),
            "tried": tried,
        }
        (directory / CHOICE).write_text(json.dumps(stored), encoding="utf-8")

    def _searched(self, run: Run, library: Library, measure: LayoutKL) -> Layout:
        others: Sequence[Layout] = ()
        if self.effort.pool > 1:
            others = other_candidates(run, self.problem, library, self.space)
        best = best_of_pool(
            self.problem,
            self.best,
            measure,
            self.effort.pool,
            others=others,
            solver=run.solver,
            seed=run.seed,
        )
        around = TrustRegion(problem=self.problem, space=self.space, rounds=self.effort.rounds)
        best = around.improve(run, best, measure)
        return refined(self.problem, best, measure, self.effort.moves, seed=run.seed)

    def load(self, run: Run, artifact: Artifact) -> Choice:
        """Returns the choice from its file."""
        stored = artifact.load_json(CHOICE)
        with interpreting(artifact.path / CHOICE, "the choice of a layout", DamagedArtifactError):
            layout = Layout.from_dict(stored["layout"])
            return Choice(
                layout=layout,
                predicted=self.problem.evaluate(_choices(self.problem, layout))[0],
                measured=Score.from_dict(stored["measured"]),
                tried=tried_layouts(stored["tried"]),
            )


def tried_layouts(values: Any) -> dict[tuple[str, ...], float]:
    """Returns the measured KL of layouts by block labels, from pairs of JSON.

    Raises:
        DataError: A value is of another kind.
    """
    return {
        tuple(as_text(label, "a label") for label in as_list(labels, "labels")): as_number(kl, "kl")
        for labels, kl in (as_list(pair, "a layout that was tried") for pair in values)
    }


def choice_work(effort: Effort, space: SearchSpace, sizes: Sizes) -> Estimate:
    """Returns what measuring layouts takes at most, and before it the exact ones of near scores.

    Args:
        effort: How much is measured.
        space: The alternatives.
        sizes: The parent, the text and the machine.
    """
    tokens = sizes.tokens("score") + round(sizes.held_out * sizes.tokens("fit"))
    depth = range(space.shape.layers)
    sweep = 2 * sizes.forward(tokens, (block for at in depth for block in space.blocks(at)))
    runs = effort.most
    seconds = runs * sizes.whole(tokens) + effort.rounds * (sweep + 8 * sizes.whole(tokens))
    stream = float(tokens * space.shape.hidden * sizes.weight_bytes)
    # The parent, three passes over a pool, and each move from the first layer that it changes.
    passes = 1 + (3 if effort.pool > 1 else 0) + 4 * effort.rounds + effort.moves / 2
    reads, work = passes * sizes.weights, f"at most {runs} layouts measured"
    if effort.rounds:
        work = f"{work}, {effort.rounds} rounds"
    if effort.pool > 1 and effort.scores == "exact":
        fisher_part = FisherScores(space=space).estimate(sizes)
        seconds, reads = seconds + fisher_part.seconds, reads + fisher_part.reads
    alone, count, jobs = seconds, replaced_blocks(space), 1
    if effort.scores == "near":
        exact = min(count, math.ceil(NEAR_SHARE * count))
        work, jobs = f"{exact} of {count} blocks exactly; {work}", space.shape.layers
        seconds += exact * exact_seconds(sizes)
        # A job of an executor makes a pass of its own, from half way up on average.
        reads += NEAR_ROUNDS * (jobs / 2 if sizes.workers else 1) * sizes.weights
    return Estimate(
        name="choice",
        work=work,
        seconds=seconds,
        alone=alone,
        jobs=jobs,
        memory=sizes.pass_memory + sizes.logits(tokens),
        disk=0.0,
        reads=reads,
        hashed=sizes.library,
        scratch=LAYOUTS_KEPT * (space.shape.layers + 1) * stream,
    )


def best_of_pool(
    problem: ChoiceProblem,
    best: Layout,
    measure: LayoutKL,
    count: int,
    *,
    others: Sequence[Layout] = (),
    solver: str = "highs",
    seed: int = 0,
) -> Layout:
    """Returns the best measured of the program's best layouts, kept apart, and of some others.

    Args:
        problem: The program.
        best: Its optimum.
        measure: What layouts are compared by.
        count: How many layouts of the program.
        others: Further layouts within the limits.
        solver: As in `solvers.solve`.
        seed: Seed of the solver.
    """
    if count < 2:
        return best
    solutions = near_optimal(problem, count, solver=solver, seed=seed)
    layouts = [layout_of(best, each.labels) for each in solutions]
    return successive_halving([best, *layouts, *others], measure)


def refined(
    problem: ChoiceProblem, start: Layout, measure: LayoutKL, moves: int, *, seed: int = 0
) -> Layout:
    """Returns a layout that measures no worse than a start, by local search.

    Args:
        problem: The program.
        start: A layout within its limits.
        measure: What layouts are compared by; moves are first measured on a quarter of its text.
        moves: Measurements in all.
        seed: Seed of the proposals.
    """
    if moves < 2:
        return start
    quarter = max(1, len(measure.tokens) // 4)

    def value(windows: int | None) -> Any:
        def run(choices: tuple[int, ...]) -> float:
            labels = (row[at] for row, at in zip(problem.groups, choices, strict=True))
            return measure(layout_of(start, labels), windows=windows).kl

        return run

    levels = [value(quarter), value(None)]
    result = refine(problem, _choices(problem, start), levels, moves, seed=seed)
    return layout_of(start, result.labels)


def _choices(problem: ChoiceProblem, layout: Layout) -> list[int]:
    pairs = zip(problem.groups, layout.blocks, strict=True)
    return [row.index(block.label) for row, block in pairs]
