"""Sensitivity: every gain and every next budget against brute force."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings

from solvers import ChoiceProblem, InfeasibleError, Limit, Solution, sensitivity, solve
from solvers._model import one_sided
from tests.factories.choice_problems import brute_force, problems

PROBLEM = ChoiceProblem(
    (("a", "b"),) * 2,
    [0, 1, 0, 3],
    {"r": [5, 1, 5, 1], "s": [1, 2, 1, 2]},
    limits=(Limit("r", at_most=6), Limit("s", at_least=1)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problem=problems())
def test_gains_agree_with_brute_force(problem: ChoiceProblem) -> None:
    before = brute_force(problem)
    if before is None:
        with pytest.raises(InfeasibleError):
            sensitivity(problem)
        return
    sides = one_sided(problem)
    for side, found in zip(sides, sensitivity(problem, step=0.5), strict=True):
        rest = [other for other in sides if other != side]
        after = brute_force(problem.with_limits([*rest, side.moved(found.step)]))
        assert after is not None
        size = 1e-9 * max(abs(before), abs(after))
        assert found.gain == pytest.approx(before - after, abs=1e-9 + size)
        assert found.certain
        assert bool(found.gain > size) <= bool(found.changed)
        free = brute_force(problem.with_limits(rest))
        assert free is not None
        if found.next_budget is None:
            assert free == pytest.approx(before, rel=1e-6, abs=1e-9)
        else:
            move = abs(found.next_budget - side.bound)
            assert brute_force(problem.with_limits([*rest, side.moved(move)])) < before
            short = side.moved(0.99 * move)
            nearly = brute_force(problem.with_limits([*rest, short]))
            assert nearly == pytest.approx(before, rel=1e-9, abs=1e-9)


def test_a_step_too_short_buys_nothing_and_the_next_budget_is_named() -> None:
    found = sensitivity(PROBLEM)
    assert (found[0].gain, found[0].next_budget) == (0.0, 10.0)
    assert "a better choice exists from 10" in str(found[0])
    assert found[1].next_budget is None
    enough = sensitivity(PROBLEM, steps={"r": 4.0}, next_budget=False)[0]
    assert (enough.gain, enough.gain_per_unit, enough.changed) == (1.0, 0.25, (0,))


def test_a_solution_at_hand_is_not_solved_again_and_must_be_one() -> None:
    solution = solve(PROBLEM)
    assert isinstance(solution, Solution)
    assert sensitivity(PROBLEM, solution=solution)[0].certain
    assert not sensitivity(PROBLEM, solution=solution.choices)[0].certain
    rough = dataclasses.replace(solution, gap=1e-4)
    assert not sensitivity(PROBLEM, solution=rough)[0].certain
    with pytest.raises(ValueError, match="the solution breaks r <= 6"):
        sensitivity(PROBLEM, solution=[0, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 0.0}, "step is 0"),
        ({"steps": {"r": -1.0}}, "step of 'r' is -1"),
        ({"steps": {"t": 1.0}}, "unknown resource 't'"),
    ],
)
def test_bad_steps_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sensitivity(PROBLEM, **arguments)  # type: ignore[arg-type]
