"""Building problems: what is normalised, and what is refused by name."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from solvers import ChoiceProblem, Limit, solve

GROUPS = (("full", "gqa1+none"), ("full", "half", "none"))


def build(**changes: object) -> ChoiceProblem:
    arguments: dict[str, object] = {
        "groups": GROUPS,
        "score": [0, 1, 0, 1, 2],
        "resources": {"memory": [4, 1, 4, 2, 0]},
        "offsets": {"memory": 10.0},
    }
    return ChoiceProblem(**(arguments | changes))  # type: ignore[arg-type]


def test_evaluate_adds_the_offset() -> None:
    assert build().evaluate((1, 2)) == (3.0, {"memory": 11.0})
    assert build().bounds("memory") == (11.0, 18.0)
    assert build().size == 5


def test_arrays_are_private_read_only_floats() -> None:
    score = np.array([0, 1, 0, 1, 2])
    problem = build(score=score)
    score[0] = 99
    assert problem.score[0] == 0.0
    assert problem.score.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        problem.score[0] = 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"score": [0, math.nan, 0, 1, 2]},
            r"score of option 'gqa1\+none' of group 0 is nan",
        ),
        (
            {"resources": {"memory": [4, 1, 4, 2, math.inf]}, "offsets": {}},
            "resource 'memory' of option 'none' of group 1 is inf",
        ),
        ({"score": [1, 2]}, r"score has shape \(2,\).*5 options"),
        ({"groups": (("a", "a"), ("b", "c", "d"))}, "group 0 has label 'a' more than once"),
        ({"groups": ((), ("b",))}, "group 0 has no options"),
        ({"groups": ()}, "no groups"),
        ({"groups": ("ab", "cde")}, "group 0 is the string 'ab'"),
        ({"offsets": {"memory": math.nan}}, "offset of 'memory' is nan"),
        ({"offsets": {"time": 1.0}}, "offset on unknown resource 'time'"),
        (
            {"limits": (Limit("memry", at_most=1),)},
            "unknown resource 'memry'; known resources: 'memory'; did you mean 'memory'",
        ),
    ],
)
def test_malformed_problems_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "no bound"),
        ({"at_most": math.nan}, "at_most is nan"),
        ({"at_least": -math.inf}, "at_least is -inf"),
        ({"at_most": 1.0, "at_least": 2.0}, "at_least 2 exceeds at_most 1"),
    ],
)
def test_malformed_limits_are_refused(bounds: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limit("memory", **bounds)


@pytest.mark.parametrize("choices", [(0,), (0, 3), (-1, 0), (0, 0, 0)])
def test_choices_out_of_range_are_refused(choices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="choice"):
        build().evaluate(choices)


def test_with_limits_replaces_the_limits() -> None:
    limited = build().with_limits([Limit("memory", at_most=12)])
    assert limited.limits == (Limit("memory", at_most=12.0),)
    assert limited.with_limits(()).limits == ()


def test_solution_converts_to_json() -> None:
    problem = build(limits=(Limit("memory", at_most=15.5, at_least=2),))
    plain = json.loads(json.dumps(solve(problem).to_dict()))
    assert plain["status"] == "optimal"
    assert plain["labels"] == ["full", "none"] or plain["labels"] == ["gqa1+none", "full"]
    assert plain["slack"].keys() == {"memory <= 15.5", "memory >= 2"}
    assert plain["objective"] == plain["bound"]
    assert plain["gap"] == 0.0
