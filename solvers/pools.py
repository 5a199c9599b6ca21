"""Several answers instead of one: diverse solutions, a sweep of budgets, the best of problems."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from solvers._backends import require_solver
from solvers._relax import relaxed_bound
from solvers._search import Incumbent, find_best, unreachable
from solvers._settings import Settings
from solvers.errors import InfeasibleError
from solvers.explanation import explain_with
from solvers.limits import Limit
from solvers.mip import make_solution
from solvers.problem import ChoiceProblem
from solvers.solution import Solution

_LOGGER = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)


def pool(
    problem: ChoiceProblem,
    k: int,
    min_distance: int = 1,
    *,
    solver: str = "highs",
    time_limit: float | None = None,
    gap: float = 0.0,
    threads: int | None = None,
    seed: int = 0,
) -> tuple[Solution, ...]:
    """Find good solutions that differ from one another, the best first.

    The first is the best; each later one is the best of those that differ from every earlier one
    in enough groups (Puzzle, arXiv 2411.19146, section 4: overlap at most a share of the layers).

    Args:
        problem: The problem.
        k: Number of solutions.
        min_distance: Number of groups in which any two have to differ at least. A group differs
            when another option, or another span, covers it.
        solver: As for `solve`, and so for the rest; `time_limit` is for each solution.
        time_limit: Seconds for each solution.
        gap: Gap of each solution.
        threads: Number of threads.
        seed: Seed of the solver.

    Returns:
        At most `k` solutions; fewer where there are no more so far apart.

    Raises:
        ValueError: If an argument is out of range.
        InfeasibleError: If there is no solution at all.
        NoSolutionError: If the time ran out before a solution was found.

    Example:
        >>> problem = ChoiceProblem((("a", "b"),) * 2, [0.0, 1.0, 0.0, 2.0])
        >>> [solution.labels for solution in pool(problem, 3)]
        [('a', 'a'), ('b', 'a'), ('a', 'b')]
    """
    if k < 1:
        raise ValueError(f"k is {k}; give the number of solutions, 1 or more")
    groups = len(problem.groups)
    if not 1 <= min_distance <= groups:
        raise ValueError(
            f"min_distance is {min_distance}; give 1 to {groups}, the number of groups"
        )
    require_solver(solver)
    settings = Settings(solver, time_limit, gap, threads, seed)
    solutions: list[Solution] = []
    restricted, floor = problem, -math.inf
    for at in range(k):
        started = time.perf_counter()
        # Every restriction only takes choices away, so the last bound holds for the next.
        result = find_best(restricted, settings, floor=floor)
        if result is None:
            break
        floor = result.bound
        seconds = time.perf_counter() - started
        solutions.append(make_solution(problem, result, seconds, solver))
        restricted = _away_from(restricted, result.selection, f"same as {at}", min_distance)
    if not solutions:
        raise InfeasibleError(problem, explain_with(problem, settings))
    return tuple(solutions)


def frontier(
    problem: ChoiceProblem,
    resource: str,
    points: int | Sequence[float] = 10,
    *,
    solver: str = "highs",
    time_limit: float | None = None,
    gap: float = 0.0,
    threads: int | None = None,
    seed: int = 0,
) -> tuple[Solution, ...]:
    """Find the least score for a sweep of budgets of one resource.

    The sweep goes from the tightest budget to the loosest, and each solve starts from the last
    solution, which stays within every looser budget.

    Args:
        problem: The problem; its own upper bound on the resource is replaced, all else holds.
        resource: The resource whose budget is swept.
        points: Budgets, or how many of them to spread evenly from the least that can be reached
            within the other limits to what the best choice uses when this one is unlimited.
        solver: As for `solve`, and so for the rest; `time_limit` is for each solve.
        time_limit: Seconds for each solve.
        gap: Gap of each solve.
        threads: Number of threads.
        seed: Seed of the solver.

    Returns:
        Solutions that use ever more of the resource for ever lower scores. Budgets out of reach
        and points that another dominates are left out.

    Raises:
        ValueError: If there is no such resource, or an argument is out of range.
        InfeasibleError: If not even the loosest budget can be met.

    Example:
        >>> problem = ChoiceProblem((("a", "b"),) * 2, [0, 1, 0, 3], {"r": [2, 1, 2, 1]})
        >>> [(p.resources["r"], p.objective) for p in frontier(problem, "r", 3)]
        [(2.0, 4.0), (3.0, 1.0), (4.0, 0.0)]
    """
    problem.bounds(resource)
    require_solver(solver)
    settings = Settings(solver, time_limit, gap, threads, seed)
    limits = [limit for limit in problem.limits if limit.resource != resource]
    for limit in problem.limits:
        if limit.resource == resource and limit.at_least is not None:
            limits.append(Limit(resource, at_least=limit.at_least))
    free = problem.with_limits(limits)
    budgets = _budgets(free, resource, points, settings)
    solutions: list[Solution] = []
    last: Incumbent | None = None
    for budget in sorted(budgets):
        if any(limit.slack(budget) < 0 for limit in limits if limit.resource == resource):
            continue
        limited = free.with_limits([*limits, Limit(resource, at_most=budget)])
        started = time.perf_counter()
        start = None if last is None else last.selection
        result = find_best(limited, settings, start=start)
        if result is not None:
            last = result
            seconds = time.perf_counter() - started
            solutions.append(make_solution(limited, result, seconds, solver))
    if not solutions:
        loosest = Limit(resource, at_most=max(budgets))
        limited = free.with_limits([*limits, loosest])
        raise InfeasibleError(limited, explain_with(limited, settings))
    return _undominated(solutions, resource)


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOver(Generic[Key]):
    """The best of several problems.

    Args:
        key: Key of the problem that has the best solution.
        solution: That solution.
        infeasible: Keys of the problems without any solution.
        skipped: Keys of the problems whose bound showed that they cannot win.
        solutions: Solutions of all problems that were solved.
    """

    key: Key
    solution: Solution
    infeasible: tuple[Key, ...]
    skipped: tuple[Key, ...]
    solutions: Mapping[Key, Solution]


def best_over(
    problems: Mapping[Key, ChoiceProblem],
    *,
    solver: str = "highs",
    time_limit: float | None = None,
    gap: float = 0.0,
    threads: int | None = None,
    seed: int = 0,
) -> BestOver[Key]:
    """Find the problem whose best solution scores least, for instance over batch sizes.

    A quick bound is computed for every problem first; they are solved from the most promising
    one on, and those whose bound is no better than the best solution so far are not solved.

    Args:
        problems: The problems, by any key.
        solver: As for `solve`, and so for the rest; `time_limit` is for each problem.
        time_limit: Seconds for each problem.
        gap: Gap of each solve.
        threads: Number of threads.
        seed: Seed of the solver.

    Returns:
        The best key with its solution; the first of equal ones by bound.

    Raises:
        ValueError: If there are no problems, or an argument is out of range.
        InfeasibleError: If none of the problems has a solution; it explains the first.

    Example:
        >>> one = ChoiceProblem((("a", "b"),), [2.0, 3.0])
        >>> two = ChoiceProblem((("a", "b"),), [1.0, 3.0])
        >>> best_over({"batch 1": one, "batch 2": two}).key
        'batch 2'
    """
    if not problems:
        raise ValueError("there are no problems; give at least one")
    require_solver(solver)
    settings = Settings(solver, time_limit, gap, threads, seed)
    bounds = {
        key: math.inf if unreachable(problem) else relaxed_bound(problem)
        for key, problem in problems.items()
    }
    infeasible: list[Key] = []
    skipped: list[Key] = []
    solved: dict[Key, Solution] = {}
    best: Key | None = None
    for key in sorted(problems, key=lambda key: bounds[key]):
        if bounds[key] == math.inf:
            infeasible.append(key)
            continue
        if best is not None and bounds[key] >= solved[best].objective:
            skipped.append(key)
            continue
        started = time.perf_counter()
        result = find_best(problems[key], settings, floor=bounds[key])
        if result is None:
            infeasible.append(key)
            continue
        seconds = time.perf_counter() - started
        solved[key] = make_solution(problems[key], result, seconds, solver)
        if best is None or solved[key].objective < solved[best].objective:
            best = key
    if best is None:
        first = next(iter(problems.values()))
        raise InfeasibleError(first, explain_with(first, settings))
    if infeasible:
        _LOGGER.info("no solution for: %s", ", ".join(map(str, infeasible)))
    return BestOver(
        key=best,
        solution=solved[best],
        infeasible=tuple(infeasible),
        skipped=tuple(skipped),
        solutions=solved,
    )


def _away_from(
    problem: ChoiceProblem, selection: tuple[int, ...], name: str, distance: int
) -> ChoiceProblem:
    """Require at least so many groups to be covered differently."""
    same = np.zeros(len(problem.columns.first))
    chosen = list(selection)
    same[chosen] = problem.columns.lengths[chosen]
    at_most = len(problem.groups) - distance
    # Resources of the user may have any name.
    while name in problem.resources:
        name += "'"
    return problem.with_resource(
        name,
        same[: problem.size],
        spans=same[problem.size :].tolist(),
        limit=Limit(name, at_most=at_most),
    )


def _budgets(
    free: ChoiceProblem, resource: str, points: int | Sequence[float], settings: Settings
) -> list[float]:
    if not isinstance(points, int):
        budgets = [float(point) for point in points]
        if not budgets or not all(map(math.isfinite, budgets)):
            raise ValueError(f"budgets are {budgets}; give one or more finite numbers")
        return budgets
    if points < 2:
        raise ValueError(f"points is {points}; give 2 or more, or the budgets themselves")
    spans = tuple(dataclasses.replace(s, score=s.resources[resource]) for s in free.spans)
    lean = dataclasses.replace(free, score=free.resources[resource], spans=spans)
    ends = []
    for end in (lean, free):
        result = find_best(end, settings)
        if result is None:
            raise InfeasibleError(free, explain_with(free, settings))
        ends.append(free.total(result.selection)[1][resource])
    return [float(budget) for budget in np.linspace(min(ends), max(ends), points)]


def _undominated(solutions: list[Solution], resource: str) -> tuple[Solution, ...]:
    """Keep, by ever more of the resource, what scores less than all before."""
    kept: list[Solution] = []
    for solution in sorted(solutions, key=lambda s: (s.resources[resource], s.objective)):
        if not kept or solution.objective < kept[-1].objective:
            kept.append(solution)
    return tuple(kept)
