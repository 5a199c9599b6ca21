"""Say why a problem has no solution: which limits, and what can be reached instead."""

from __future__ import annotations

import dataclasses

from solvers._model import one_sided
from solvers._pulp import Settings
from solvers._search import search, unreachable
from solvers.errors import SolverError
from solvers.problem import ChoiceProblem, Limit

# Explaining is a courtesy after the answer "none" is known, so each re-solve is kept short.
_SECONDS = 10.0


def explain(problem: ChoiceProblem, settings: Settings) -> str:
    """Explain why no choice satisfies every limit.

    Args:
        problem: A problem known to be infeasible.
        settings: How the problem was solved; re-solves use the same solver.

    Returns:
        Plain lines: the limits that fail alone, else a smallest set of limits in conflict.
    """
    alone = unreachable(problem)
    if alone:
        return "\n".join(_reach_line(problem, side) for side in alone)
    seconds = min(settings.time_limit or _SECONDS, _SECONDS)
    quick = dataclasses.replace(settings, time_limit=seconds, gap=0.0)
    conflict = _smallest_conflict(problem, quick)
    together = " and ".join(side.text for side in conflict)
    lines = [f"each limit can be met alone, but these conflict: {together}"]
    for side in conflict:
        rest = tuple(other for other in conflict if other is not side)
        line = _reach_given(problem, side, rest, quick)
        if line:
            lines.append(line)
    lines.append("loosen or drop one of them")
    return "\n".join(lines)


def _smallest_conflict(problem: ChoiceProblem, settings: Settings) -> tuple[Limit, ...]:
    """Drop limits one at a time while the rest still conflict; what stays is needed."""
    kept = list(one_sided(problem))
    for side in tuple(kept):
        rest = [other for other in kept if other is not side]
        try:
            found = search(problem.with_limits(rest), settings)
        except SolverError:
            # Not proved infeasible without it, so it cannot be dropped safely.
            continue
        if found is None:
            kept = rest
    return tuple(kept)


def _wanted(side: Limit) -> tuple[str, str, float]:
    if side.at_most is not None:
        return "at most", "least", side.at_most
    assert side.at_least is not None
    return "at least", "most", side.at_least


def _reach_line(problem: ChoiceProblem, side: Limit) -> str:
    words, extreme, bound = _wanted(side)
    least, greatest = problem.bounds(side.resource)
    reached = least if side.at_most is not None else greatest
    return (
        f"{side.resource} {words} {_number(bound, reached)}: "
        f"the {extreme} any choice reaches is {_number(reached, bound)}"
    )


def _reach_given(
    problem: ChoiceProblem, side: Limit, rest: tuple[Limit, ...], settings: Settings
) -> str | None:
    """Say how near one limit can be approached while the rest of the conflict holds."""
    words, extreme, bound = _wanted(side)
    sign = 1.0 if side.at_most is not None else -1.0
    toward = dataclasses.replace(
        problem, score=sign * problem.resources[side.resource], limits=rest
    )
    try:
        found = search(toward, settings)
    except SolverError:
        return None
    if found is None or not found.proved:
        return None
    reached = toward.evaluate(found.choices)[1][side.resource]
    given = " and ".join(other.text for other in rest)
    return (
        f"{side.resource} {words} {_number(bound, reached)}: with {given}, "
        f"the {extreme} any choice reaches is {_number(reached, bound)}"
    )


def _number(value: float, other: float) -> str:
    """Print as few digits as still tell the two numbers apart."""
    return f"{value:.6g}" if f"{value:.6g}" != f"{other:.6g}" else f"{value:.17g}"
