"""Quality against throughput: the frontier of the program, and where parent and child lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from puzzle.choice.baselines import at_random, greedy
from puzzle.errors import ConstraintError
from puzzle.report.outcomes import SECONDS, predicted_totals
from puzzle.report.record import SearchRecord
from solvers import ChoiceProblem, SolverError, frontier, pool

KINDS = {
    "frontier": "best for each budget",
    "pool": "near-optimal layouts",
    "tried": "measured candidates",
    "greedy": "greedy, same limit",
    "random": "random, same limit",
    "parent": "parent",
    "child": "child, predicted",
    "measured": "child, measured",
}
"""What the points are, in the order in which they are drawn."""

# The frontier is only drawn here: it need not be proved to the last digit.
POINTS, POOL, GAP = 12, 5, 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One layout in the picture.

    Args:
        kind: A key of `KINDS`.
        share: Its throughput, or what it has of another resource, over the parent's, both
            predicted or both measured.
        kl: Its KL in nats per token: the sum of its blocks' scores, or measured.
    """

    kind: str
    share: float
    kl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The picture of quality against throughput or, if no time is known, another resource.

    Args:
        axis: Throughput, or the name of the resource.
        points: What is drawn.
        wanted: The share that the limits require; None if they do not limit it.
    """

    axis: str
    points: tuple[Point, ...]
    wanted: float | None = None


def frontier_of(record: SearchRecord) -> Frontier | None:
    """Returns the frontier of a record's program, with what it chose.

    Returns:
        The frontier; None without evidence, or with a program that knows no resource.
    """
    if record.evidence is None or not record.evidence.problem.resources:
        return None
    problem = record.evidence.kl_problem()
    limited = [limit.resource for limit in problem.limits if limit.at_most is not None]
    name = next((n for n in ("seconds", *limited) if n in problem.resources), None)
    parent, child = (
        {"predicted": predicted_totals(record, who), "measured": measured.to_dict()}
        for who, measured in (("parent", record.measured.parent), ("child", record.measured.child))
    )
    if name is None or not parent["predicted"].get(name, 0.0) > 0:
        return None

    def share(total: float, how: str = "predicted") -> float:
        whole = parent[how][name]
        return whole / total if name == "seconds" else total / whole

    budgets = _budgets(child["predicted"][name], parent["predicted"][name])
    layouts = [
        *_frontier(problem, name, budgets),
        *_pool(problem, name),
        *_baselines(problem, name),
        *_tried(problem, name, record.evidence.tried),
    ]
    points = [Point(kind=each.kind, share=share(each.total), kl=each.kl) for each in layouts]
    points.append(Point(kind="parent", share=1.0, kl=0.0))
    for kind, how in (("child", "predicted"), ("measured", "measured")):
        # What was not timed has its measured KL at its predicted speed.
        at = how if name in child[how] and name in parent[how] else "predicted"
        if "kl" in child[how]:
            points.append(Point(kind=kind, share=share(child[at][name], at), kl=child[how]["kl"]))
    bounds = [x.at_most for x in problem.limits if x.resource == name and x.at_most]
    return Frontier(
        axis="throughput" if name == "seconds" else name,
        points=tuple(points),
        wanted=share(min(bounds)) if bounds else None,
    )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A layout of the program: its kind, its total of the resource, and its KL."""

    kind: str
    total: float
    kl: float


def _budgets(child: float, parent: float) -> list[float] | int:
    """Returns budgets as far beyond the child as show where the trade leads, up to the parent's.

    Over all that can be reached, the child and its neighbours would be one spot in a corner.
    """
    if child >= parent:
        return POINTS
    least = max(child - 0.8 * (parent - child), 0.2 * child)
    return [*np.linspace(least, child, POINTS // 2), *np.linspace(child, parent, POINTS // 2)[1:]]


def _frontier(problem: ChoiceProblem, name: str, budgets: list[float] | int) -> list[_Candidate]:
    try:
        solutions = frontier(problem, name, budgets, gap=GAP, time_limit=SECONDS)
    except SolverError:
        return []
    return [_Candidate("frontier", each.resources[name], each.objective) for each in solutions]


def _pool(problem: ChoiceProblem, name: str) -> list[_Candidate]:
    apart = max(1, len(problem.groups) // 10)
    try:
        solutions = pool(problem, POOL, apart, gap=GAP, time_limit=SECONDS)
    except SolverError:
        return []
    return [_Candidate("pool", each.resources[name], each.objective) for each in solutions]


def _tried(
    problem: ChoiceProblem, name: str, tried: Mapping[tuple[str, ...], float]
) -> list[_Candidate]:
    candidates = []
    for labels, kl in tried.items():
        pairs = zip(problem.groups, labels, strict=True)
        # The parent is measured too, as the reference.
        if kl > 0:
            used = problem.evaluate([row.index(label) for row, label in pairs])[1]
            candidates.append(_Candidate("tried", used[name], kl))
    return candidates


def _baselines(problem: ChoiceProblem, name: str) -> list[_Candidate]:
    # They are made for programs with one limit from above.
    if len(problem.limits) != 1 or problem.limits[0].at_most is None or problem.spans:
        return []
    candidates = []
    for kind, choose in (("greedy", greedy), ("random", at_random)):
        try:
            labels = choose(problem)
        except (ConstraintError, SolverError):
            continue
        pairs = zip(problem.groups, labels, strict=True)
        kl, used = problem.evaluate([row.index(label) for row, label in pairs])
        candidates.append(_Candidate(kind, used[name], kl))
    return candidates
