"""Explaining: every budget named is right by brute force, and every conflict is needed."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
from hypothesis import HealthCheck, given, settings

from solvers import (
    ChoiceProblem,
    InfeasibleError,
    Limit,
    SolverError,
    Span,
    available_solvers,
    explain,
    solve,
)
from solvers._model import one_sided
from tests.factories.choice_problems import brute_force, covers, problems

SMALL = ChoiceProblem(
    groups=(("big", "small"),) * 2,
    score=[0.0, 1.0, 0.0, 1.0],
    resources={"memory": [8.0, 1.2, 8.0, 1.2], "speed": [5.0, 1.0, 5.0, 1.0]},
    offsets={"memory": 20.0},
)


@pytest.mark.parametrize("solver", available_solvers())
def test_a_limit_out_of_reach_alone_is_named_with_both_values(solver: str) -> None:
    problem = SMALL.with_limits([Limit("memory", at_most=20), Limit("speed", at_least=11)])
    with pytest.raises(InfeasibleError) as caught:
        solve(problem, solver=solver)
    assert caught.value.problem is problem
    lines = str(caught.value).splitlines()
    assert lines[0] == "no choice satisfies every limit"
    assert lines[1].startswith("memory at most 20: the least any choice reaches is 22.4")
    assert lines[2].startswith("speed at least 11: the most any choice reaches is 10")


@pytest.mark.parametrize("solver", available_solvers())
def test_conflicting_limits_are_named_and_innocent_ones_are_not(solver: str) -> None:
    limits = [
        Limit("memory", at_most=100),
        Limit("memory", at_most=25),
        Limit("speed", at_least=6, at_most=9),
    ]
    with pytest.raises(InfeasibleError) as caught:
        solve(SMALL.with_limits(limits), solver=solver)
    found = caught.value.explanation
    assert found.conflict == ("memory <= 25", "speed >= 6")
    assert found.alone == pytest.approx({"memory <= 25": 29.2, "speed >= 6": 2.0})
    assert found.share == pytest.approx((29.2 - 25) / 25)
    assert "29.2" in str(caught.value)


def test_the_groups_that_hold_a_limit_up_are_named_with_their_part() -> None:
    problem = ChoiceProblem(
        groups=(("a", "b"),) * 3,
        score=[0.0] * 6,
        resources={"r": [9, 7, 3, 1, 5, 4]},
        limits=(Limit("r", at_most=10),),
    )
    assert explain(problem).reaches[0].groups == ((0, 7.0), (2, 4.0), (1, 1.0))
    pinned = explain(problem.keep([1]))
    assert pinned.reaches[0].groups == ((0, 7.0), (2, 4.0), (1, 3.0))
    span = Span(1, 2, "s", 0.0, {"r": 2.0})
    assert explain(dataclasses.replace(problem, spans=(span,))).reaches[0].value == 9.0


def test_a_range_between_reachable_totals_conflicts_with_itself() -> None:
    found = explain(SMALL.with_limits([Limit("speed", at_most=5, at_least=3)]))
    assert found.conflict == ("speed <= 5", "speed >= 3")
    assert found.alone == {"speed <= 5": 6.0, "speed >= 3": 2.0}


def test_pins_and_distinct_choices_take_part_in_a_conflict() -> None:
    problem = dataclasses.replace(SMALL, distinct=1, pinned={0: "big"})
    found = explain(problem.with_limits([Limit("memory", at_most=30)]))
    assert found.conflict == ("memory <= 30", "at most 1 distinct choice")
    assert found.reaches[0].value == 36.0
    apart = ChoiceProblem((("a", "b"), ("c", "d")), [0.0] * 4, distinct=1)
    assert explain(apart).conflict == ("at most 1 distinct choice",)


def test_a_feasible_problem_says_so() -> None:
    found = explain(SMALL.with_limits([Limit("memory", at_most=30)]))
    assert found.feasible
    assert str(found).startswith("every limit can be met")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problem=problems())
def test_every_claim_agrees_with_brute_force(problem: ChoiceProblem) -> None:
    found = explain(problem)
    assert found.feasible == (brute_force(problem) is not None)
    free = problem.with_limits(())
    totals = [free.evaluate(*pick)[1] for pick in covers(free) if not free.violations(*pick)]
    if found.feasible or not totals:
        return
    sides = {side.text: side for side in one_sided(problem)}
    for reach in found.reaches:
        values = [total[reach.limit.resource] for total in totals]
        best = min(values) if reach.limit.at_most is not None else max(values)
        assert reach.value == pytest.approx(best, rel=1e-9, abs=1e-9)
    limits = [text for text in found.conflict if text in sides]
    assert brute_force(problem.with_limits(sides[text] for text in limits)) is None
    for left_out in limits:
        rest = [sides[text] for text in limits if text != left_out]
        assert (
            len(found.conflict) == 1
            or brute_force(problem.with_limits(rest)) is not None
            or (not all(reach.met for reach in found.reaches))
        )
    for text, side in sides.items():
        rest = problem.with_limits(other for other in sides.values() if other != side)
        open_ = brute_force(rest) is not None
        assert (text in found.alone) == open_
        if open_:
            moved = dataclasses.replace(side, **_bound(side, found.alone[text]))
            assert brute_force(rest.with_limits([*rest.limits, moved])) is not None
            nearer = dataclasses.replace(
                side, **_bound(side, found.alone[text] + 0.01 * (side.bound - found.alone[text]))
            )
            assert brute_force(rest.with_limits([*rest.limits, nearer])) is None
    assert found.share is not None
    loose = [
        dataclasses.replace(sides[text], **_bound(sides[text], budget))
        for text, budget in found.together.items()
    ]
    assert brute_force(problem.with_limits(loose)) is not None
    less = [
        dataclasses.replace(
            side, **_bound(side, side.bound + 0.99 * (loose[at].bound - side.bound))
        )
        for at, side in enumerate(sides.values())
    ]
    assert brute_force(problem.with_limits(less)) is None


def _bound(side: Limit, bound: float) -> dict[str, float]:
    return {"at_most": bound} if side.at_most is not None else {"at_least": bound}


def test_infeasible_error_survives_pickling() -> None:
    with pytest.raises(InfeasibleError) as caught:
        solve(SMALL.with_limits([Limit("memory", at_most=20)]))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, SolverError)
    assert copy.explanation == caught.value.explanation
