"""Solve a choice problem exactly, as a mixed-integer program."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from solvers._explain import explain
from solvers._model import one_sided
from solvers._pulp import Settings, available_solvers, require_solver
from solvers._search import Found, search
from solvers.errors import InfeasibleError
from solvers.problem import ChoiceProblem, Solution, Status

__all__ = ["available_solvers", "solve"]

_LOGGER = logging.getLogger(__name__)

_LARGEST_SEED = 2**31 - 1


def solve(
    problem: ChoiceProblem,
    *,
    solver: str = "highs",
    time_limit: float | None = None,
    gap: float = 0.0,
    threads: int | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Solution:
    """Find the choice of least total score within every limit.

    The same problem, solver and seed give the same choice, unless the time limit cuts in.

    Args:
        problem: The problem.
        solver: ``"highs"`` or ``"cbc"``; see `available_solvers`.
        time_limit: Seconds the solver may take, None for as long as it needs.
        gap: Stop once the objective is proved within this share of the best possible.
        threads: Number of threads, None for the solver's own choice.
        seed: Seed of the solver's random decisions.
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
    _check_arguments(time_limit, gap, threads, seed)
    require_solver(solver)
    settings = Settings(solver, time_limit, gap, threads, seed, dict(options or {}))
    started = time.perf_counter()
    found = search(problem, settings)
    if found is None:
        raise InfeasibleError(problem, explain(problem, settings))
    solution = _solution(problem, found, time.perf_counter() - started, solver)
    _LOGGER.info("%s: %s, objective %.6g", solver, solution.status, solution.objective)
    return solution


def _check_arguments(time_limit: float | None, gap: float, threads: int | None, seed: int) -> None:
    if time_limit is not None and not (math.isfinite(time_limit) and time_limit > 0):
        raise ValueError(
            f"time_limit is {time_limit}; give a positive number of seconds, or None for no limit"
        )
    if not 0.0 <= gap < 1.0:
        raise ValueError(f"gap is {gap}; give a share from 0 (exact) up to, not including, 1")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; give 1 or more, or None for the solver's choice")
    if not 0 <= seed <= _LARGEST_SEED:
        raise ValueError(f"seed is {seed}; give a whole number from 0 to {_LARGEST_SEED}")


def _solution(problem: ChoiceProblem, found: Found, seconds: float, solver: str) -> Solution:
    objective, totals = problem.evaluate(found.choices)
    return Solution(
        status=Status.OPTIMAL if found.proved else Status.FEASIBLE,
        choices=found.choices,
        labels=problem.labels(found.choices),
        objective=objective,
        bound=found.bound,
        gap=(objective - found.bound) / max(abs(objective), 1e-12),
        resources=totals,
        slack={side.text: side.slack(totals[side.resource]) for side in one_sided(problem)},
        seconds=seconds,
        solver=solver,
    )
