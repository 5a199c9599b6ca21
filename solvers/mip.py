"""solve(): the multiple-choice program as a mixed-integer program through PuLP."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pulp

from solvers._pulp import Outcome, available_solvers, make_solver, read_outcome
from solvers.errors import InfeasibleError, NoSolutionError, SolverError
from solvers.problem import Array, ChoiceProblem, Limit, Solution, Status

__all__ = ["available_solvers", "solve"]

TOLERANCE = 1e-9


def solve(
    problem: ChoiceProblem,
    *,
    solver: str = "highs",
    time_limit: float | None = None,
    gap: float = 0.0,
    threads: int | None = None,
    seed: int = 0,
) -> Solution:
    """Returns the choice of least score within the limits.

    Args:
        problem: What to solve.
        solver: "highs", or "cbc" where PuLP brings it.
        time_limit: Seconds after which the best choice found so far is returned as FEASIBLE.
        gap: Relative gap at which to stop; 0 proves the optimum.
        threads: Solver threads; the solver's own default if None.
        seed: Seed of the solver's random decisions.

    Returns:
        The solution; its totals are recomputed from the problem, not read from the solver.

    Raises:
        InfeasibleError: No choice meets the limits; the message says why.
        NoSolutionError: The time limit passed without a choice.
        SolverMissingError: The solver is not installed.
        ValueError: There is no solver of that name, or an option is out of range.

    Example:
        >>> problem = ChoiceProblem((("a", "b"),), [0, 1], {"cost": [5, 1]}, (Limit("cost", 2),))
        >>> solve(problem).labels
        ('b',)
    """
    if gap < 0 or (time_limit is not None and time_limit <= 0):
        raise ValueError(f"gap={gap}, time_limit={time_limit}; allowed: gap >= 0, time_limit > 0")
    backend = make_solver(solver, time_limit=time_limit, gap=gap, threads=threads, seed=seed)
    start = time.perf_counter()
    cheapest = tuple(int(np.argmin(part)) for part in problem.split(problem.score))
    if _meets(problem, cheapest):
        choices, outcome = cheapest, Outcome(feasible=True, stopped=False, proven=True, bound=None)
    else:
        _refuse_unreachable(problem)
        choices, outcome = _run(problem, backend, gap)
    return _solution(problem, choices, outcome, time.perf_counter() - start, solver)


def _run(problem: ChoiceProblem, backend: Any, gap: float) -> tuple[tuple[int, ...], Outcome]:
    """Solves the scaled program, tightening it where rounding let a limit slip."""
    margin = 0.0
    for _ in range(4):
        program, variables, scale = _program(problem, margin)
        outcome = read_outcome(program, program.solve(backend), gap=gap)
        if not outcome.feasible:
            if outcome.stopped:
                raise NoSolutionError(
                    "the time limit passed before a choice within the limits was found; "
                    "raise time_limit, or loosen the limits"
                )
            raise InfeasibleError(_explain_conflict(problem, backend, gap))
        choices = tuple(
            int(np.argmax([variable.value() or 0.0 for variable in row])) for row in variables
        )
        if _meets(problem, choices):
            bound = None if outcome.bound is None else outcome.bound * scale
            return choices, Outcome(
                feasible=True, stopped=outcome.stopped, proven=outcome.proven, bound=bound
            )
        margin = 1e-7 if margin == 0.0 else margin * 10
    raise SolverError("the solver's choices keep missing a limit by rounding; try another solver")


def _program(problem: ChoiceProblem, margin: float) -> tuple[Any, list[list[Any]], float]:
    """Builds the program with objective and rows scaled to about one."""
    program = pulp.LpProblem("choice", pulp.LpMinimize)
    variables = [
        [
            program.add_variable(f"x_{g}_{o}", lowBound=0, upBound=1, cat="Binary")
            for o in range(len(group))
        ]
        for g, group in enumerate(problem.groups)
    ]
    flat = [variable for row in variables for variable in row]
    scale = float(np.abs(problem.score).max()) or 1.0
    program += _sum(problem.score / scale, flat)
    for row in variables:
        program += pulp.lpSum(row) == 1
    for name, at_most, bound in _bounds(problem.limits):
        column = problem.resources[name]
        unit = float(np.abs(column).max()) or 1.0
        right = (bound - problem.offsets.get(name, 0.0)) / unit
        left = _sum(column / unit, flat)
        program += (left <= right - margin) if at_most else (left >= right + margin)
    return program, variables, scale


def _sum(column: Array, variables: Sequence[Any]) -> Any:
    return pulp.lpSum(float(c) * v for c, v in zip(column, variables, strict=True))


def _bounds(limits: Sequence[Limit]) -> Iterator[tuple[str, bool, float]]:
    """Yields (resource, whether it is an upper bound, the bound)."""
    for limit in limits:
        if limit.at_most is not None:
            yield limit.resource, True, limit.at_most
        if limit.at_least is not None:
            yield limit.resource, False, limit.at_least


def _slack(problem: ChoiceProblem, totals: dict[str, float]) -> dict[str, float]:
    return {
        f"{name} {'<=' if upper else '>='} {bound:.6g}": (
            bound - totals[name] if upper else totals[name] - bound
        )
        for name, upper, bound in _bounds(problem.limits)
    }


def _meets(problem: ChoiceProblem, choices: Sequence[int]) -> bool:
    totals = problem.evaluate(choices)[1]
    return all(
        (totals[name] - bound) * (1 if upper else -1)
        <= TOLERANCE * max(abs(bound), abs(totals[name]))
        for name, upper, bound in _bounds(problem.limits)
    )


def _refuse_unreachable(problem: ChoiceProblem) -> None:
    """Raises InfeasibleError if a limit cannot hold even alone."""
    lines = []
    for name, upper, bound in _bounds(problem.limits):
        low, high = problem.reach(name)
        slip = TOLERANCE * max(abs(bound), abs(low), abs(high))
        if upper and low > bound + slip:
            lines.append(f"{name} at most {bound:.6g}: the least any choice takes is {low:.6g}")
        if not upper and high < bound - slip:
            lines.append(f"{name} at least {bound:.6g}: the most any choice takes is {high:.6g}")
    if lines:
        raise InfeasibleError("\n".join(lines))


def _explain_conflict(problem: ChoiceProblem, backend: Any, gap: float) -> str:
    """Returns a minimal set of limits that cannot hold together, found by leaving out one."""
    kept = list(problem.limits)
    for limit in problem.limits:
        rest = [other for other in kept if other is not limit]
        if not rest:
            break
        program, _, _ = _program(problem.with_limits(rest), 0.0)
        outcome = read_outcome(program, program.solve(backend), gap=gap)
        if not outcome.feasible and not outcome.stopped:
            kept = rest
    limits = " and ".join(str(limit) for limit in kept)
    return f"no choice meets {limits} together; loosen one of them"


def _solution(
    problem: ChoiceProblem,
    choices: tuple[int, ...],
    outcome: Outcome,
    seconds: float,
    solver: str,
) -> Solution:
    objective, totals = problem.evaluate(choices)
    floor = float(sum(part.min() for part in problem.split(problem.score)))
    bound = objective if outcome.proven else max(floor, outcome.bound or floor)
    bound = min(bound, objective)
    return Solution(
        status=Status.OPTIMAL if outcome.proven else Status.FEASIBLE,
        choices=choices,
        labels=tuple(group[c] for group, c in zip(problem.groups, choices, strict=True)),
        objective=objective,
        bound=bound,
        gap=(objective - bound) / max(abs(objective), 1e-12),
        resources=totals,
        slack=_slack(problem, totals),
        seconds=seconds,
        solver=solver,
    )
