"""What one more unit of each budget would buy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from solvers._backends import require_solver
from solvers._model import one_sided
from solvers._search import find_best
from solvers._settings import Settings
from solvers.errors import InfeasibleError, SolverError
from solvers.explanation import explain_with
from solvers.limits import Limit
from solvers.mip import Start, make_solution, read_start
from solvers.problem import ChoiceProblem
from solvers.solution import Solution, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What loosening one limit would buy, found by solving again.

    Choices are discrete, so gains come in jumps: a step may buy nothing and twice the step much.
    `next_budget` says where the next jump is.

    Args:
        limit: The limit, one-sided.
        step: How far its bound was moved outwards.
        gain: By how much the least score fell; 0 if the step buys nothing.
        gain_per_unit: The gain divided by the step.
        changed: Groups that are covered differently after the step.
        solution: The solution after the step.
        certain: Whether both solutions were proved best, so that the gain is exact.
        next_budget: The nearest budget at which a better choice exists if the other limits stay;
            None if no budget helps, or it was not looked for or not found in time.
    """

    limit: Limit
    step: float
    gain: float
    gain_per_unit: float
    changed: tuple[int, ...]
    solution: Solution
    certain: bool
    next_budget: float | None

    def __str__(self) -> str:
        text = f"{self.limit.text}: {self.step:.6g} more lowers the score by {self.gain:.6g}"
        if self.next_budget is not None:
            text += f"; a better choice exists from {self.next_budget:.10g} on"
        return text


def sensitivity(
    problem: ChoiceProblem,
    *,
    solution: Start | None = None,
    step: float = 0.01,
    steps: dict[str, float] | None = None,
    next_budget: bool = True,
    solver: str = "highs",
    time_limit: float | None = None,
    threads: int | None = None,
    seed: int = 0,
) -> tuple[Sensitivity, ...]:
    """Find what a little more of each budget would buy.

    Args:
        problem: The problem.
        solution: Its solution where there is one already; otherwise it is solved first.
        step: How far each bound moves outwards, as a share of its size.
        steps: How far in units of the resource instead, for some or all resources.
        next_budget: Whether to look for the nearest budget that helps: one more solve per limit.
        solver: As for `solve`, and so for the rest.
        time_limit: Seconds for each solve.
        threads: Number of threads.
        seed: Seed of the solver.

    Returns:
        One result for each one-sided limit, in order.

    Raises:
        ValueError: If an argument is out of range, or the solution is not one of this problem.
        InfeasibleError: If the problem has no solution.
        NoSolutionError: If the time ran out before a solution was found.

    Example:
        >>> problem = ChoiceProblem(
        ...     (("a", "b"),) * 2, [0, 1, 0, 3], {"r": [5, 1, 5, 1]},
        ...     limits=(Limit("r", at_most=6),),
        ... )
        >>> result = sensitivity(problem)[0]
        >>> (result.gain, result.next_budget)
        (0.0, 10.0)
    """
    if not step > 0.0:
        raise ValueError(f"step is {step}; give a positive share of each budget")
    moves = dict(steps or {})
    for name, move in moves.items():
        problem.bounds(name)
        if not move > 0.0:
            raise ValueError(f"step of {name!r} is {move}; give a positive amount")
    require_solver(solver)
    settings = Settings(solver, time_limit, 0.0, threads, seed)
    own = _own(problem, solution, settings)
    proved = own[1]
    if isinstance(solution, Solution):
        # OPTIMAL may mean to within a gap, and a gain could then be nothing but the gap closing.
        proved = solution.status is Status.OPTIMAL and solution.gap <= 1e-9
    results = []
    for side in one_sided(problem):
        move = moves.get(side.resource, step * abs(side.bound) or step)
        results.append(_loosened(problem, side, move, (own[0], proved), settings, next_budget))
    return tuple(results)


def _own(
    problem: ChoiceProblem, solution: Start | None, settings: Settings
) -> tuple[tuple[int, ...], bool]:
    given = read_start(problem, solution)
    if given is not None:
        broken = problem.broken(given)
        if broken:
            raise ValueError(
                f"the solution breaks {', '.join(broken)}; give one of this problem, or none"
            )
        return given, False
    best = find_best(problem, settings)
    if best is None:
        raise InfeasibleError(problem, explain_with(problem, settings))
    return best.selection, best.proved


def _loosened(
    problem: ChoiceProblem,
    side: Limit,
    move: float,
    own: tuple[tuple[int, ...], bool],
    settings: Settings,
    look: bool,
) -> Sensitivity:
    selection, proved = own
    rest = _without(problem, side)
    looser = problem.with_limits([*rest, side.moved(move)])
    best = find_best(looser, settings, start=selection)
    assert best is not None
    solution = make_solution(looser, best, 0.0, settings.solver)
    before = problem.total(selection)[0]
    gain = max(before - best.objective, 0.0)
    columns = problem.columns
    changed = np.flatnonzero(columns.by_group(selection) != columns.by_group(best.selection))
    return Sensitivity(
        limit=side,
        step=move,
        gain=gain,
        gain_per_unit=gain / move,
        changed=tuple(changed.tolist()),
        solution=solution,
        certain=proved and best.proved,
        next_budget=_next_budget(problem, side, rest, before, settings) if look else None,
    )


def _without(problem: ChoiceProblem, side: Limit) -> tuple[Limit, ...]:
    return tuple(other for other in one_sided(problem) if other != side)


def _next_budget(
    problem: ChoiceProblem,
    side: Limit,
    rest: tuple[Limit, ...],
    before: float,
    settings: Settings,
) -> float | None:
    """Use as little as can be of the resource for a score that is lower, if only just."""
    name = "score"
    while name in problem.resources:
        name += "'"
    scored = problem.with_resource(
        name, problem.score, spans=[span.score for span in problem.spans]
    )
    least = scored.bounds(name)[0]
    lower = before - 1e-7 * (before - least)
    if not least <= lower < before:
        return None
    sign = 1.0 if side.at_most is not None else -1.0
    toward = dataclasses.replace(
        scored,
        score=sign * scored.resources[side.resource],
        spans=tuple(
            dataclasses.replace(span, score=sign * span.resources[side.resource])
            for span in scored.spans
        ),
        limits=(*rest, Limit(name, at_most=lower)),
    )
    try:
        nearest = find_best(toward, settings)
    except SolverError:
        return None
    return None if nearest is None else problem.total(nearest.selection)[1][side.resource]
