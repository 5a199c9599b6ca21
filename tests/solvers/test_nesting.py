"""Nested families, against brute force over all of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import ChoiceProblem, InfeasibleError, Limit, only, solve, solve_nested
from tests.factories.choice_problems import brute_force, solutions


@st.composite
def families(draw):
    """Two or three problems over the same options, by two measures of their size."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    total, members = sum(counts), draw(st.integers(2, 3))
    amounts = st.lists(st.integers(0, 3), min_size=total, max_size=total)
    sizes = {"weights": draw(amounts), "cache": draw(amounts)}
    problems = [
        ChoiceProblem(
            tuple(tuple(map(str, range(count))) for count in counts),
            draw(st.lists(st.integers(-9, 9), min_size=total, max_size=total)),
            {"cost": draw(st.lists(st.integers(0, 9), min_size=total, max_size=total))},
            limits=(Limit("cost", at_most=draw(st.integers(0, 20))),),
        )
        for _ in range(members)
    ]
    weights = draw(st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=members, max_size=members))
    return problems, sizes, weights


def is_nested(problem, sizes, picks):
    """Whether no group of a pick is larger, by any measure, than that of the next."""
    at = [problem.starts + np.array(pick) for pick in picks]
    return all(
        (np.array(amounts)[small] <= np.array(amounts)[large]).all()
        for small, large in itertools.pairwise(at)
        for amounts in sizes.values()
    )


@settings(max_examples=60, deadline=None)
@given(families())
def test_a_nested_family_is_the_best_of_all_nested_ones(family):
    problems, sizes, weights = family
    ways = itertools.product(*(solutions(problem) for problem in problems))
    sums = [
        sum(weight * score for weight, (score, _) in zip(weights, way, strict=True))
        for way in ways
        if is_nested(problems[0], sizes, [choices for _, (choices, _) in way])
    ]
    if not sums:
        with pytest.raises(InfeasibleError):
            solve_nested(problems, [sizes] * len(problems), weights=weights)
        return
    nested = solve_nested(problems, [sizes] * len(problems), weights=weights)
    assert nested.objective == pytest.approx(min(sums))
    assert is_nested(problems[0], sizes, [each.choices for each in nested.solutions])
    for problem, own, free, price in zip(
        problems, nested.solutions, nested.free, nested.price, strict=True
    ):
        assert not problem.violations(own.choices)
        assert own.objective == pytest.approx(problem.evaluate(own.choices)[0])
        assert free.objective == pytest.approx(brute_force(problem)) == pytest.approx(own.bound)
        assert price >= -1e-9


def test_only_some_options_are_left():
    problem = ChoiceProblem((("a", "b", "c"),) * 2, [3, 2, 1, 1, 2, 3], {"r": [1, 2, 3] * 2})
    limited = problem.with_limits([Limit("r", at_least=3)])
    kept = only(limited, [True, True, False, False, True, True])
    assert kept.groups == (("a", "b"), ("b", "c"))
    assert solve(kept).labels == ("b", "b")
    assert kept.evaluate([0, 1]) == problem.evaluate([0, 2])
    with pytest.raises(ValueError, match="group"):
        only(problem, [False] * 3 + [True] * 3)


def test_what_cannot_be_nested_is_refused():
    problem = ChoiceProblem((("a", "b"),) * 2, [0, 1, 0, 1])
    sizes = {"bytes": [1.0, 0.0] * 2}
    for problems, measures, weights, words in (
        ([problem], [sizes], None, "two or more"),
        ([problem, problem.keep([0])], [sizes] * 2, None, "pins"),
        ([problem] * 2, [sizes, {"other": [1.0] * 4}], None, "measures"),
        ([problem] * 2, [sizes, {"bytes": [1.0]}], None, "shape"),
        ([problem] * 2, [sizes] * 2, [1.0, 0.0], "above zero"),
    ):
        with pytest.raises(ValueError, match=words):
            solve_nested(problems, measures, weights=weights)
