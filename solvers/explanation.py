"""Say why a problem has no solution: which limits, and what can be reached instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from solvers._backends import require_solver, run_program
from solvers._model import Variation, build_program, one_sided
from solvers._search import find_best
from solvers._settings import Settings
from solvers.errors import SolverError
from solvers.limits import Distinct, Limit
from solvers.problem import ChoiceProblem

# Explaining is a courtesy after the answer "none" is known, so each re-solve is kept short.
_SECONDS = 10.0

# How many of the groups that contribute most to a total are named.
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far one limit can be met when there is no other.

    Args:
        limit: The limit, one-sided.
        value: The least total that any choice reaches, or the most for a limit from below.
        fixed: The part of it that no choice changes: the offset.
        groups: The groups that contribute most to it, each with its part of the value.
        met: Whether the limit alone can be met.
    """

    limit: Limit
    value: float
    fixed: float
    groups: tuple[tuple[int, float], ...]
    met: bool

    def __str__(self) -> str:
        bound = self.limit.bound
        words, extreme = _words(self.limit)
        parts = [f"{self.fixed:.6g} of it fixed"] if self.fixed else []
        most = ", ".join(f"{value:.6g} in group {group}" for group, value in self.groups)
        parts.append(f"{'least' if extreme == 'most' else 'most'} of the rest: {most}")
        return (
            f"{self.limit.resource} {words} {_number(bound, self.value)}: the {extreme} any "
            f"choice reaches is {_number(self.value, bound)} ({'; '.join(parts)})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Whether the limits can be met, and if not, what is in the way and what would do.

    `str` gives it in a few plain lines.

    Args:
        feasible: Whether some choice satisfies everything.
        reaches: For each one-sided limit, how far it can be met alone.
        conflict: What cannot be met together: limits, and "pins" or the bound on distinct
            choices. Empty if feasible.
        minimal: Whether the rest of the conflict was proved to fit when any one part is dropped.
        alone: For each limit, as text, the nearest budget at which a choice exists if only this
            limit is loosened; limits for which there is none, or none was found, are left out.
        together: For each limit, as text, its budget when all are loosened by the same share.
        share: That share of each budget; None if no loosening helps, or none was found.
    """

    feasible: bool
    reaches: tuple[Reach, ...] = ()
    conflict: tuple[str, ...] = ()
    minimal: bool = True
    alone: Mapping[str, float] = dataclasses.field(default_factory=dict)
    together: Mapping[str, float] = dataclasses.field(default_factory=dict)
    share: float | None = None

    def __str__(self) -> str:
        if self.feasible:
            return "\n".join(["every limit can be met", *map(str, self.reaches)])
        failing = [str(reach) for reach in self.reaches if not reach.met]
        lines = failing or [f"these cannot be met together: {' and '.join(self.conflict)}"]
        for text, budget in self.alone.items():
            limit = self._limit(text)
            lines.append(
                f"if all else stays, {limit.resource} {_words(limit)[0]} "
                f"{_number(budget, limit.bound)} would do"
            )
        if len(self.together) > 1 and self.share:
            budgets = [
                f"{self._limit(text).resource} {_words(self._limit(text))[0]} {budget:.6g}"
                for text, budget in self.together.items()
            ]
            share = f"{100 * self.share:.3g} %"
            lines.append(f"or all loosened by {share} would do: {', '.join(budgets)}")
        return "\n".join(lines)

    def _limit(self, text: str) -> Limit:
        return next(reach.limit for reach in self.reaches if reach.limit.text == text)


def explain(
    problem: ChoiceProblem, *, solver: str = "highs", time_limit: float = _SECONDS
) -> Explanation:
    """Explain what keeps a problem from being solved, and the nearest budgets that would do.

    Args:
        problem: The problem, feasible or not.
        solver: Solver for the re-solves, as for `solve`.
        time_limit: Seconds for each of the re-solves, about two for each limit.

    Returns:
        The explanation.

    Raises:
        ValueError: If an argument is out of range.
        SolverError: If it could not be decided whether the problem has a solution.

    Example:
        >>> problem = ChoiceProblem(
        ...     (("big", "small"),) * 2, [0.0, 1.0] * 2, {"memory": [4, 1] * 2},
        ...     limits=(Limit("memory", at_most=1),),
        ... )
        >>> explain(problem).alone
        {'memory <= 1': 2.0}
    """
    require_solver(solver)
    settings = Settings(solver, time_limit=time_limit)
    if find_best(problem, settings) is not None:
        return Explanation(feasible=True, reaches=_reaches(problem, settings))
    return explain_with(problem, settings)


def explain_with(problem: ChoiceProblem, settings: Settings) -> Explanation:
    """Explain a problem that is known to have no solution.

    Args:
        problem: The problem.
        settings: How it was solved; re-solves use the same solver.

    Returns:
        The explanation.
    """
    seconds = min(settings.time_limit or _SECONDS, _SECONDS)
    quick = dataclasses.replace(settings, time_limit=seconds, gap=0.0)
    reaches = _reaches(problem, quick)
    # Each limit that fails alone, or with the bounds on distinct choices, is a smallest conflict.
    failing = _failing(problem, reaches)
    conflict, minimal = (failing, True) if failing else _conflict(problem, quick)
    alone = {}
    for side in one_sided(problem):
        budget = _nearest(problem, side, quick)
        if budget is not None:
            alone[side.text] = budget
    share, together = _stretched(problem, quick)
    return Explanation(
        feasible=False,
        reaches=reaches,
        conflict=conflict,
        minimal=minimal,
        alone=alone,
        together=together,
        share=share,
    )


def _reaches(problem: ChoiceProblem, settings: Settings) -> tuple[Reach, ...]:
    reaches = []
    for side in one_sided(problem):
        sign = 1.0 if side.at_most is not None else -1.0
        values = problem.columns.resources[side.resource]
        best = problem.columns.least(sign * values)
        if problem.distinct is not None:
            limited = find_best(_toward(problem, side, ()), settings)
            if limited is not None and limited.proved:
                best = limited.selection
        order = np.argsort(-sign * values[list(best)], kind="stable")[:_NAMED]
        columns = [best[at] for at in order]
        total = problem.total(best)[1][side.resource]
        reaches.append(
            Reach(
                limit=side,
                value=total,
                fixed=problem.offsets.get(side.resource, 0.0),
                groups=tuple((int(problem.columns.first[c]), float(values[c])) for c in columns),
                met=side.slack(total) >= -problem.tolerance(side.resource),
            )
        )
    return tuple(reaches)


def _failing(problem: ChoiceProblem, reaches: Sequence[Reach]) -> tuple[str, ...]:
    """Name the limits that fail alone, and the bounds on distinct choices if these are why."""
    sides = [reach.limit for reach in reaches if not reach.met]
    bounds: Sequence[Distinct] = ()
    for side in sides:
        low, high = problem.bounds(side.resource)
        best = low if side.at_most is not None else high
        if side.slack(best) >= -problem.tolerance(side.resource):
            bounds = problem.distinct_bounds
    texts = [*(side.text for side in sides), *(bound.text for bound in bounds)]
    return tuple(dict.fromkeys(texts))


def _conflict(problem: ChoiceProblem, settings: Settings) -> tuple[tuple[str, ...], bool]:
    """Drop one part at a time while the rest still conflict; what stays is needed."""
    sides, distinct, pins = list(one_sided(problem)), problem.distinct_bounds, bool(problem.pinned)
    minimal = True

    def fails(limits: Sequence[Limit], kinds: tuple[Distinct, ...], pinned: bool) -> bool:
        nonlocal minimal
        less = dataclasses.replace(
            problem,
            limits=tuple(limits),
            distinct=kinds,
            pinned=problem.pinned if pinned else {},
        )
        try:
            return find_best(less, settings) is None
        except SolverError:
            # Not proved to conflict without it, so it cannot be dropped safely.
            minimal = False
            return False

    for side in tuple(sides):
        rest = [other for other in sides if other is not side]
        if fails(rest, distinct, pins):
            sides = rest
    if distinct and fails(sides, (), pins):
        distinct = ()
    if pins and fails(sides, distinct, False):
        pins = False
    texts = [side.text for side in sides]
    texts += dict.fromkeys(bound.text for bound in distinct)
    return (*texts, *(["pins"] if pins else [])), minimal


def _nearest(problem: ChoiceProblem, side: Limit, settings: Settings) -> float | None:
    """Find how near a limit can be approached while all else holds."""
    rest = tuple(other for other in one_sided(problem) if other != side)
    try:
        nearest = find_best(_toward(problem, side, rest), settings)
    except SolverError:
        return None
    return None if nearest is None else problem.total(nearest.selection)[1][side.resource]


def _toward(problem: ChoiceProblem, side: Limit, limits: tuple[Limit, ...]) -> ChoiceProblem:
    """Make the problem of meeting one limit as well as can be, under some others."""
    sign = 1.0 if side.at_most is not None else -1.0
    name = side.resource
    return dataclasses.replace(
        problem,
        score=sign * problem.resources[name],
        spans=tuple(
            dataclasses.replace(span, score=sign * span.resources[name]) for span in problem.spans
        ),
        limits=limits,
    )


def _stretched(problem: ChoiceProblem, settings: Settings) -> tuple[float | None, dict[str, float]]:
    """Find the least share by which all budgets together have to be loosened."""
    sides = one_sided(problem)
    units = {side.text: _unit(problem, side) for side in sides}
    program = build_program(problem, Variation(stretch=units))
    try:
        outcome = run_program(program, problem.columns, settings)
    except SolverError:
        return None, {}
    if outcome.selection is None:
        return None, {}
    totals = problem.total(outcome.selection)[1]
    share = max([0.0, *(-s.slack(totals[s.resource]) / units[s.text] for s in sides)])
    moved = {side.text: side.moved(share * units[side.text]).bound for side in sides}
    return share, moved


def _unit(problem: ChoiceProblem, side: Limit) -> float:
    """The size of a budget; for a budget of zero, of what choices change, or one."""
    least, greatest = problem.bounds(side.resource)
    return abs(side.bound) or greatest - least or 1.0


def _words(side: Limit) -> tuple[str, str]:
    return ("at most", "least") if side.at_most is not None else ("at least", "most")


def _number(value: float, other: float) -> str:
    """Print as few digits as still tell the two numbers apart."""
    return f"{value:.6g}" if f"{value:.6g}" != f"{other:.6g}" else f"{value:.17g}"
