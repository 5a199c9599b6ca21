"""Claims about problems as plain values."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from solvers import (
    ChoiceProblem,
    Distinct,
    Limit,
    Solution,
    Span,
    problem_from_dict,
    problem_to_dict,
    solve,
)

NUMBERS = st.floats(0, 1e12, allow_nan=False)


@given(st.lists(NUMBERS, min_size=6, max_size=6), st.lists(NUMBERS, min_size=6, max_size=6))
def test_a_problem_comes_back_from_json_bit_for_bit(score, cost):
    problem = ChoiceProblem(
        (("a", "b"), ("a", "b", "c"), ("a",)),
        score,
        {"memory": cost},
        offsets={"memory": 1.5},
        limits=(Limit("memory", at_most=1e13, at_least=0.1),),
        pinned={-2: "b"},
        distinct=Distinct(2, groups=(0, -1), kinds={"a": "x", "b": "y", "c": "x"}),
    )
    again = problem_from_dict(json.loads(json.dumps(problem_to_dict(problem))))
    assert np.array_equal(again.score, problem.score)
    assert np.array_equal(again.resources["memory"], problem.resources["memory"])
    for name in ("groups", "offsets", "limits", "pinned", "spans", "distinct"):
        assert getattr(again, name) == getattr(problem, name)


def test_spans_and_their_solution_come_back_from_json():
    problem = ChoiceProblem(
        (("a", "b"),) * 3,
        [0, 5, 0, 5, 0, 5],
        {"memory": [4, 1] * 3},
        limits=(Limit("memory", at_most=7),),
        spans=(Span(0, 1, "fused", 0.5, {"memory": 3.0}),),
    )
    again = problem_from_dict(json.loads(json.dumps(problem_to_dict(problem))))
    solution = solve(problem)
    assert solution.labels == ("fused", "fused", "a")
    assert solve(again).labels == solution.labels
    assert Solution.from_dict(json.loads(json.dumps(solution.to_dict()))) == solution
