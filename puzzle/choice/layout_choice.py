"""From a program to a layout: how much measuring goes into the choice is the effort."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from puzzle.choice.around import halved, layout_of, rescored
from puzzle.choice.candidates import other_candidates
from puzzle.choice.layout_kl import Measure
from puzzle.errors import DataError
from puzzle.library.build import Library
from puzzle.library.settings import LibraryConfig
from puzzle.library.streams import Streams
from puzzle.scoring.scores import Score
from puzzle.storage.hashing import content_hash, hash_tensors
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import Windows
from search_space import Layout, SearchSpace
from solvers import ChoiceProblem, Solution, pool, refine

KIND, CHOICE = "choice", "choice.json"
# Part of every artifact's name: raise it when what is stored changes.
FORMAT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What is measured before a layout is chosen.

    Args:
        pool: How many of the program's best layouts are measured, each different from the others
            in a tenth of the layers, and `other_candidates` beside them; with 1 the program's
            optimum is chosen unmeasured.
        rounds: Most trust-region rounds around the best (`puzzle.choice.around`).
        moves: Measurements of a local search after that (`solvers.refinement`).
        scores: What the program minimises: "fisher", "hybrid" or "exact" scores.
    """

    pool: int = 1
    rounds: int = 0
    moves: int = 0
    scores: str = "fisher"


EFFORTS: Mapping[str, Effort] = MappingProxyType(
    {
        "fast": Effort(),
        "default": Effort(pool=8, moves=60, scores="exact"),
        "thorough": Effort(pool=8, rounds=6, moves=200, scores="exact"),
    }
)


def effort_named(name: str) -> Effort:
    """Returns one of `EFFORTS`.

    Raises:
        DataError: There is none of that name.
    """
    if name not in EFFORTS:
        raise DataError(f"effort={name!r}; allowed: {', '.join(EFFORTS)}")
    return EFFORTS[name]


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

    No weight was fitted to either. On the score text alone, which chose the program's optimum
    already, a search among many layouts finds what is good there and nowhere else.

    Args:
        windows: The text.
        held_out: Share of the fit windows that choose ridges.
    """
    return torch.cat([windows.score, windows.fit[Streams.split(len(windows.fit), held_out) :]])


def choose(
    problem: ChoiceProblem,
    optimum: Solution,
    library: Library,
    space: SearchSpace,
    windows: Windows,
    effort: Effort,
    *,
    workspace: Workspace,
    held_out: float = LibraryConfig().held_out,
    solver: str = "highs",
    seed: int = 0,
) -> Choice:
    """Returns the layout that measures best among what an effort looks at.

    Args:
        problem: The program.
        optimum: Its solution.
        library: The variants.
        space: The blocks of the problem.
        windows: The text; its validation part is not used.
        effort: How much is measured.
        workspace: Where the choice is stored, and sweeps keep their activations meanwhile.
        held_out: As in the library's config.
        solver: As in `solvers.solve`.
        seed: Seed of solver, probes and moves.
    """
    own = Layout.parent(space.shape)
    best = layout_of(own, optimum.labels)
    if effort.pool < 2 and not effort.rounds and not effort.moves:
        return Choice(layout=best, predicted=optimum.objective)
    spec = {
        "format": FORMAT,
        "effort": asdict(effort),
        "problem": _digest(problem),
        "library": [artifact.key for artifact in library.layers],
        "score": windows.hash("score"),
        "text": hash_tensors({"text": (text := choice_text(windows, held_out))}),
        "solver": [solver, seed],
    }

    def build(directory: Path) -> None:
        measure = Measure(library, text)
        others: Sequence[Layout] = ()
        if effort.pool > 1:
            others = other_candidates(
                problem, library, space, windows, workspace=workspace, solver=solver, seed=seed
            )
        found = _found(problem, best, others, measure, space, effort, workspace, solver, seed)
        measured = measure(found).to_dict()
        tried = [
            [[block.label for block in layout.blocks], score.kl]
            for layout, score in measure.known.items()
        ]
        stored = {"layout": found.to_dict(), "measured": measured, "tried": tried}
        (directory / CHOICE).write_text(json.dumps(stored), encoding="utf-8")

    stored = workspace.get_or_build(KIND, spec, build).load_json(CHOICE)
    layout = Layout.from_dict(stored["layout"])
    return Choice(
        layout=layout,
        predicted=problem.evaluate(_choices(problem, layout))[0],
        measured=Score(**stored["measured"]),
        tried={tuple(labels): kl for labels, kl in stored["tried"]},
    )


def _found(
    problem: ChoiceProblem,
    best: Layout,
    others: Sequence[Layout],
    measure: Measure,
    space: SearchSpace,
    effort: Effort,
    workspace: Workspace,
    solver: str,
    seed: int,
) -> Layout:
    best = best_of_pool(
        problem, best, measure, effort.pool, others=others, solver=solver, seed=seed
    )
    best = rescored(
        problem,
        best,
        measure,
        space,
        workspace=workspace,
        rounds=effort.rounds,
        solver=solver,
        seed=seed,
    )
    return refined(problem, best, measure, effort.moves, seed=seed)


def best_of_pool(
    problem: ChoiceProblem,
    best: Layout,
    measure: Measure,
    count: int,
    *,
    others: Sequence[Layout] = (),
    solver: str = "highs",
    seed: int = 0,
) -> Layout:
    """Returns the best measured of the program's best layouts, some way apart, and some others.

    Args:
        problem: The program.
        best: Its optimum.
        measure: Decides.
        count: How many layouts of the program.
        others: Further layouts within the limits.
        solver: As in `solvers.solve`.
        seed: Seed of the solver.
    """
    if count < 2:
        return best
    apart = max(1, len(problem.groups) // 10)
    found = pool(problem, count, apart, solver=solver, seed=seed)
    return halved([best, *(layout_of(best, each.labels) for each in found), *others], measure)


def refined(
    problem: ChoiceProblem, start: Layout, measure: Measure, moves: int, *, seed: int = 0
) -> Layout:
    """Returns a layout that measures no worse than a start, by local search.

    Args:
        problem: The program.
        start: A layout within its limits.
        measure: Decides; moves are first measured on a quarter of its text.
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
    found = refine(problem, _choices(problem, start), levels, moves, seed=seed)
    return layout_of(start, found.labels)


def _choices(problem: ChoiceProblem, layout: Layout) -> list[int]:
    pairs = zip(problem.groups, layout.blocks, strict=True)
    return [row.index(block.label) for row, block in pairs]


def _digest(problem: ChoiceProblem) -> str:
    return content_hash(
        {
            "groups": [list(row) for row in problem.groups],
            "score": problem.score.tolist(),
            "resources": {name: values.tolist() for name, values in problem.resources.items()},
            "offsets": dict(problem.offsets),
            "limits": [str(limit) for limit in problem.limits],
        }
    )
