"""Pools, frontiers and the best of several problems, against brute force."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solvers import (
    ChoiceProblem,
    InfeasibleError,
    Limit,
    Span,
    Status,
    best_over,
    frontier,
    pool,
    solve,
)
from solvers._relax import relaxed_bound
from tests.factories.choice_problems import brute_force, distance, knapsack, problems, solutions

FEW = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FEW
@given(problem=problems(), k=st.integers(1, 4), data=st.data())
def test_each_solution_is_the_best_far_enough_from_all_before(
    problem: ChoiceProblem, k: int, data: st.DataObject
) -> None:
    apart = data.draw(st.integers(1, len(problem.groups)))
    left = solutions(problem)
    if not left:
        with pytest.raises(InfeasibleError):
            pool(problem, k, apart)
        return
    found = pool(problem, k, apart)
    for solution in found:
        assert solution.objective == pytest.approx(left[0][0], rel=1e-9, abs=1e-9)
        assert solution.bound <= solution.objective
        pick = (solution.choices, solution.spans)
        assert problem.violations(*pick) == ()
        assert solution.resources.keys() == problem.resources.keys()
        left = [other for other in left if distance(problem, pick, other[1]) >= apart]
    assert len(found) == k or not left


@FEW
@given(problem=problems(), points=st.integers(2, 5))
def test_a_frontier_holds_the_least_score_of_every_budget(
    problem: ChoiceProblem, points: int
) -> None:
    budgets = [float(budget) for budget in range(-12, 13, points)]
    limits = [limit for limit in problem.limits if limit.resource != "b"]
    best = [
        brute_force(problem.with_limits([*limits, Limit("b", at_most=budget)]))
        for budget in budgets
    ]
    free = problem.with_limits(limits)
    if best[-1] is None:
        with pytest.raises(InfeasibleError):
            frontier(free, "b", budgets)
        return
    found = frontier(free, "b", budgets)
    for budget, least in zip(budgets, best, strict=True):
        within = [s.objective for s in found if s.resources["b"] <= budget + 1e-6]
        assert (min(within) if within else None) == (
            None if least is None else pytest.approx(least, rel=1e-9, abs=1e-9)
        )
    uses = [solution.resources["b"] for solution in found]
    scores = [solution.objective for solution in found]
    assert uses == sorted(set(uses))
    assert scores == sorted(set(scores), reverse=True)


def test_an_even_frontier_goes_from_the_least_to_unlimited_use() -> None:
    problem = knapsack(0, 12, 5, 2)
    found = frontier(problem, "r0", 6)
    free = problem.with_limits([Limit("r1", at_most=problem.limits[1].at_most)])
    assert found[-1].objective == pytest.approx(solve(free).objective)
    lean = dataclasses.replace(free, score=free.resources["r0"])
    assert found[0].resources["r0"] == pytest.approx(solve(lean).objective)


def test_a_lower_bound_on_the_swept_resource_stays() -> None:
    problem = ChoiceProblem((("a", "b"),) * 2, [0, 1, 0, 3], {"r": [2, 1, 2, 1]})
    found = frontier(problem.with_limits([Limit("r", at_most=9, at_least=3)]), "r", [1, 2, 3, 4])
    assert [s.resources["r"] for s in found] == [3.0, 4.0]


@FEW
@given(candidates=st.lists(problems(), min_size=1, max_size=4))
def test_the_best_of_several_problems_wins_whatever_is_skipped(
    candidates: list[ChoiceProblem],
) -> None:
    best = {at: brute_force(problem) for at, problem in enumerate(candidates)}
    scores = [score for score in best.values() if score is not None]
    if not scores:
        with pytest.raises(InfeasibleError):
            best_over(dict(enumerate(candidates)))
        return
    found = best_over(dict(enumerate(candidates)))
    assert found.solution.objective == pytest.approx(min(scores), rel=1e-9, abs=1e-9)
    assert best[found.key] == pytest.approx(min(scores), rel=1e-9, abs=1e-9)
    assert all(best[key] is None for key in found.infeasible)
    parts = [*found.infeasible, *found.skipped, *found.solutions]
    assert sorted(parts) == list(range(len(candidates)))


@FEW
@given(problem=problems())
def test_the_quick_bound_is_a_bound(problem: ChoiceProblem) -> None:
    least = brute_force(problem)
    if least is not None:
        assert relaxed_bound(problem) <= least + 1e-9 * abs(least)


def test_problems_that_cannot_win_are_not_solved() -> None:
    problem = knapsack(1, 20, 5, 1)
    worse = dataclasses.replace(problem, score=problem.score + 1000.0)
    found = best_over({"worse": worse, "same": problem})
    assert (found.key, found.skipped) == ("same", ("worse",))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: pool(p, 0), "k is 0"),
        (lambda p: pool(p, 2, 4), "min_distance is 4; give 1 to 3"),
        (lambda p: frontier(p, "rr"), "unknown resource 'rr'.*did you mean 'r'"),
        (lambda p: frontier(p, "r", 1), "points is 1"),
        (lambda p: frontier(p, "r", []), "give one or more finite numbers"),
        (lambda p: best_over({}), "there are no problems"),
    ],
)
def test_bad_arguments_are_refused(call: object, message: str) -> None:
    problem = ChoiceProblem((("a", "b"),) * 3, [0, 1] * 3, {"r": [1, 0] * 3})
    with pytest.raises(ValueError, match=message):
        call(problem)  # type: ignore[operator]


def test_a_start_that_highs_hands_back_in_place_of_the_optimum_is_not_taken_for_it() -> None:
    """HiGHS 1.16 reports the optimum of this problem and returns the start."""
    spans = tuple(
        Span(first=first, last=last, label=f"{first}-{last}", score=0.0, resources={"b": 0.0})
        for first, last in ((0, 1), (1, 2), (0, 2))
    )
    options = ("o0", "o1", "o2", "o3")
    problem = ChoiceProblem(
        groups=(("o0",), ("o0",), options, options),
        score=[0.0] * 9 + [-1.0],
        resources={"b": [0.0] * 9 + [1.0]},
        limits=(Limit("b", at_most=2.0),),
        spans=spans,
    )
    solution = solve(problem, start=(0, 0, 0, 0))
    assert (solution.objective, solution.status) == (brute_force(problem), Status.OPTIMAL)
    assert [each.objective for each in frontier(problem, "b", [0.0, 2.0])] == [0.0, -1.0]
