"""Several choices at once, of which each one is nowhere larger than the next: a nested family."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from solvers._backends import require_solver
from solvers._columns import FloatArray
from solvers._search import Incumbent, find_best
from solvers._settings import Settings
from solvers.errors import InfeasibleError
from solvers.limits import Limit
from solvers.mip import make_solution, solve
from solvers.problem import ChoiceProblem
from solvers.solution import Solution, Status

__all__ = ["Nested", "only", "solve_nested"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nested:
    """A nested family, and what each of its members would be on its own.

    Args:
        solutions: The members, the smallest first. The bound of each is that of its own optimum,
            so that its gap is what nesting costs it.
        free: The optimum of each problem without the others.
        objective: The weighted sum of the members' scores.
        bound: No nested family has a lower sum.
        status: Whether that sum is proved least.
        seconds: Wall-clock time of all solves.
    """

    solutions: tuple[Solution, ...]
    free: tuple[Solution, ...]
    objective: float
    bound: float
    status: Status
    seconds: float

    @property
    def price(self) -> tuple[float, ...]:
        """By how much each member scores worse than its own optimum."""
        pairs = zip(self.solutions, self.free, strict=True)
        return tuple(own.objective - free.objective for own, free in pairs)


def solve_nested(
    problems: Sequence[ChoiceProblem],
    sizes: Sequence[Mapping[str, npt.ArrayLike]],
    *,
    weights: Sequence[float] | None = None,
    solver: str = "highs",
    seed: int = 0,
) -> Nested:
    """Find one choice for each problem, no group of one larger than that of the next.

    All are found together, as one program: the least weighted sum of their scores. For each group,
    measure and amount, at most as many options of that amount are chosen in one problem as in the
    next, which is 0 or 1; so the program is no weaker for the links.

    Args:
        problems: The problems, that of the smallest member first, with equally many groups and
            neither spans, pins nor a bound on distinct choices.
        sizes: For each problem, some measures of its options by name, each as long as its
            `score`. An option is no larger than another if it is by none of the measures.
        weights: How much the score of each problem counts; by default all the same.
        solver: As for `solve`.
        seed: As for `solve`.

    Returns:
        The members, and the optimum of each problem on its own.

    Raises:
        ValueError: If the problems or their sizes do not fit each other.
        InfeasibleError: If no family is within all limits; of a single problem, or of the links.

    Example:
        >>> layers = (("big", "small"),) * 2
        >>> cheap = ChoiceProblem(layers, [0, 1, 0, 2], {"memory": [4, 1, 4, 1]})
        >>> tight, loose = (cheap.with_limits([Limit("memory", at_most=n)]) for n in (2, 5))
        >>> nested = solve_nested([tight, loose], [{"bytes": [4, 1, 4, 1]}] * 2)
        >>> [each.labels for each in nested.solutions]
        [('small', 'small'), ('small', 'big')]
    """
    started = time.perf_counter()
    require_solver(solver)
    shares = [1.0] * len(problems) if weights is None else [float(each) for each in weights]
    _check(problems, sizes, shares)
    free = tuple(solve(each, solver=solver, seed=seed) for each in problems)
    joint = _joint(problems, sizes, shares)
    best = find_best(joint, Settings(solver, None, 0.0, None, seed, {}))
    if best is None:
        raise InfeasibleError(
            joint,
            "each problem can be solved on its own, and no solution of one is nowhere larger than "
            "one of the next; put them in the order of their sizes, or loosen a limit",
        )
    return Nested(
        solutions=_members(problems, best, free, solver),
        free=free,
        objective=best.objective,
        bound=best.bound,
        status=Status.OPTIMAL if best.proved else Status.FEASIBLE,
        seconds=time.perf_counter() - started,
    )


def only(problem: ChoiceProblem, keep: npt.ArrayLike) -> ChoiceProblem:
    """Copy a problem with some of its options.

    Args:
        problem: A problem without spans, pins or a bound on distinct choices.
        keep: Whether each option stays; some of every group have to.

    Raises:
        ValueError: If no option of a group stays, or the problem has spans, pins or such a bound.

    Example:
        >>> only(ChoiceProblem((("a", "b"),) * 2, [0, 1, 0, 1]), [True, True, False, True]).groups
        (('a', 'b'), ('b',))
    """
    _require_plain(problem)
    mask = np.asarray(keep, dtype=bool)
    ends = [*problem.starts[1:].tolist(), problem.size]
    groups = tuple(
        tuple(label for label, stays in zip(group, mask[start:end], strict=True) if stays)
        for group, start, end in zip(problem.groups, problem.starts.tolist(), ends, strict=True)
    )
    return dataclasses.replace(
        problem,
        groups=groups,
        score=problem.score[mask],
        resources={name: values[mask] for name, values in problem.resources.items()},
    )


def _require_plain(problem: ChoiceProblem) -> None:
    if problem.spans or problem.pinned or problem.distinct is not None:
        raise ValueError(
            "a problem has spans, pins or a bound on distinct choices; leave them out here"
        )


def _check(
    problems: Sequence[ChoiceProblem],
    sizes: Sequence[Mapping[str, npt.ArrayLike]],
    weights: Sequence[float],
) -> None:
    if not len(problems) == len(sizes) == len(weights) or len(problems) < 2:
        raise ValueError(
            f"{len(problems)} problems, {len(sizes)} of sizes and {len(weights)} weights; give one "
            "of each for every member of a family of two or more"
        )
    for problem, own, weight in zip(problems, sizes, weights, strict=True):
        _require_plain(problem)
        if len(problem.groups) != len(problems[0].groups) or set(own) != set(sizes[0]):
            raise ValueError("the problems differ in their groups or measures; give the same")
        if not 0 < weight < np.inf:
            raise ValueError(f"a weight is {weight}; give a finite number above zero")
        for name, values in own.items():
            if np.shape(values) != (problem.size,):
                raise ValueError(
                    f"{name!r} of {problem.size} options has shape {np.shape(values)}; give one "
                    "value for each"
                )


def _joint(
    problems: Sequence[ChoiceProblem],
    sizes: Sequence[Mapping[str, npt.ArrayLike]],
    weights: Sequence[float],
) -> ChoiceProblem:
    """One problem with the groups of all, their limits, and the links between them."""
    counts = [problem.size for problem in problems]
    first = np.cumsum([0, *counts])
    resources: dict[str, FloatArray] = {}
    offsets: dict[str, float] = {}
    limits: list[Limit] = []
    for number, problem in enumerate(problems):
        for name in dict.fromkeys(limit.resource for limit in problem.limits):
            column = np.zeros(first[-1])
            column[first[number] : first[number + 1]] = problem.resources[name]
            resources[f"{number}: {name}"] = column
            offsets[f"{number}: {name}"] = problem.offsets.get(name, 0.0)
        limits += [dataclasses.replace(each, resource=f"{number}: {each.resource}")
                   for each in problem.limits]  # fmt: skip
    for name, column in _links(problems, sizes, first):
        resources[name] = column
        limits.append(Limit(name, at_most=0.0))
    return ChoiceProblem(
        groups=tuple(group for problem in problems for group in problem.groups),
        score=np.concatenate([w * p.score for w, p in zip(weights, problems, strict=True)]),
        resources=resources,
        offsets=offsets,
        limits=tuple(limits),
    )


def _links(
    problems: Sequence[ChoiceProblem],
    sizes: Sequence[Mapping[str, npt.ArrayLike]],
    first: npt.NDArray[np.intp],
) -> list[tuple[str, FloatArray]]:
    """For each pair of members, group, measure and amount: options of it here, less those there."""
    links = []
    for at in range(len(problems) - 1):
        here, there = problems[at], problems[at + 1]
        for group in range(len(here.groups)):
            own, next_ = (_columns(problem, group) for problem in (here, there))
            for measure in sizes[at]:
                small = np.asarray(sizes[at][measure], dtype=float)[own]
                large = np.asarray(sizes[at + 1][measure], dtype=float)[next_]
                # The least amount binds nothing where the next member has nothing smaller.
                for amount in np.unique(small[small > large.min()]):
                    column = np.zeros(first[-1])
                    column[first[at] + own[small >= amount]] = 1.0
                    column[first[at + 1] + next_[large >= amount]] = -1.0
                    links.append(
                        (f"{measure} of group {group}, {at} to {at + 1}: {amount}", column)
                    )
    return links


def _columns(problem: ChoiceProblem, group: int) -> npt.NDArray[np.intp]:
    start = int(problem.starts[group])
    return np.arange(start, start + len(problem.groups[group]))


def _members(
    problems: Sequence[ChoiceProblem], best: Incumbent, free: Sequence[Solution], solver: str
) -> tuple[Solution, ...]:
    """The part of a joint selection that each problem has, beside its own optimum."""
    members, before = [], 0
    for problem, own in zip(problems, free, strict=True):
        inside = [at - before for at in best.selection if before <= at < before + problem.size]
        before += problem.size
        objective = problem.total(inside)[0]
        bound = min(own.bound, objective)
        proved = objective - bound <= 1e-12 * abs(objective)
        incumbent = Incumbent(
            selection=tuple(inside), objective=objective, bound=bound, proved=proved
        )
        members.append(make_solution(problem, incumbent, 0.0, solver))
    return tuple(members)
