"""Solve a choice problem exactly, as a mixed-integer program."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from solvers._backends import available_solvers, require_solver
from solvers._model import one_sided
from solvers._search import Incumbent, find_best
from solvers._settings import Settings
from solvers.errors import InfeasibleError
from solvers.explanation import explain_with
from solvers.problem import ChoiceProblem
from solvers.solution import Solution, Status

__all__ = ["Start", "available_solvers", "solve"]

_LOGGER = logging.getLogger(__name__)

Start = Solution | Sequence[int | None]


def solve(
    problem: ChoiceProblem,
    *,
    solver: str = "highs",
    time_limit: float | None = None,
    gap: float = 0.0,
    threads: int | None = None,
    seed: int = 0,
    start: Start | None = None,
    options: Mapping[str, Any] | None = None,
) -> Solution:
    """Find the choice of least total score within every limit.

    The same problem, solver and seed give the same choice, unless the time limit ends the run.

    Args:
        problem: The problem.
        solver: ``"highs"``, ``"scipy"``, ``"cbc"``, or ``"pulp:NAME"`` for solver NAME through
            PuLP; see `available_solvers`.
        time_limit: Seconds the solver may take; by default as long as it needs.
        gap: Stop once the objective is proved within this share of the best possible.
        threads: Number of threads, by default the solver's own choice; scipy ignores it.
        seed: Seed of the solver's random decisions; scipy and some of PuLP's ignore it.
        start: A choice to begin from, or a solution. It is passed to HiGHS; with any solver the
            answer is never worse than it. One that breaks a limit of the problem is ignored.
        options: Further options, by the solver's own names.

    Returns:
        The choice, with a proved bound on how much better another could be.

    Raises:
        ValueError: If an argument is out of range.
        InfeasibleError: If no choice satisfies every limit.
        NoSolutionError: If the time ran out before any choice was found.
        SolverMissingError: If the solver is not installed.

    Example:
        >>> from solvers import ChoiceProblem, Limit, solve
        >>> two_layers = (("big", "small"),) * 2
        >>> problem = ChoiceProblem(two_layers, [0.0, 0.3, 0.0, 0.1], {"memory": [4, 1, 4, 1]})
        >>> solve(problem.with_limits([Limit("memory", at_most=5)])).labels
        ('big', 'small')
    """
    settings = Settings(solver, time_limit, gap, threads, seed, dict(options or {}))
    require_solver(solver)
    first = read_start(problem, start)
    started = time.perf_counter()
    best = find_best(problem, settings, start=first)
    if best is None:
        raise InfeasibleError(problem, explain_with(problem, settings))
    solution = make_solution(problem, best, time.perf_counter() - started, solver)
    _LOGGER.info("%s: %s, objective %.6g", solver, solution.status, solution.objective)
    return solution


def read_start(problem: ChoiceProblem, start: Start | None) -> tuple[int, ...] | None:
    """Turn a start as users give it into a selection.

    Args:
        problem: The problem.
        start: Choices, or a solution of a problem with the same groups and spans.

    Returns:
        The selection, or None for no start.

    Raises:
        ValueError: If it does not cover each group once.
    """
    if start is None:
        return None
    if isinstance(start, Solution):
        return problem.selection(start.choices, start.spans)
    return problem.selection(start)


def make_solution(problem: ChoiceProblem, best: Incumbent, seconds: float, solver: str) -> Solution:
    """Describe a selection in the words of the problem.

    Args:
        problem: The problem.
        best: The selection, with what is known about it.
        seconds: How long the solver took.
        solver: Name of the solver.

    Returns:
        The solution.
    """
    objective, totals = problem.total(best.selection)
    choices, spans = problem.columns.split(best.selection)
    return Solution(
        status=Status.OPTIMAL if best.proved else Status.FEASIBLE,
        choices=choices,
        labels=problem.labels(choices, spans),
        spans=spans,
        objective=objective,
        bound=best.bound,
        gap=(objective - best.bound) / max(abs(objective), 1e-12),
        resources=totals,
        slack={side.text: side.slack(totals[side.resource]) for side in one_sided(problem)},
        seconds=seconds,
        solver=solver,
    )
