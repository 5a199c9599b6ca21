"""Whatever is in a stored problem, solution or log, it is read, or refused by a ValueError."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solvers import (
    ChoiceProblem,
    Limit,
    Solution,
    Span,
    problem_from_dict,
    problem_to_dict,
    refine,
    solve,
)
from tests.factories.damage import damaged_files, damaged_values

PROBLEM = ChoiceProblem(
    (("a", "b"),) * 3,
    [0, 1] * 3,
    {"r": [2, 1] * 3},
    limits=(Limit("r", at_most=5),),
    spans=(Span(0, 1, "s", 1.0, {"r": 1.0}),),
    distinct=2,
)
LINE = {"level": 0, "choices": [0, 0, 1], "spans": [], "value": 1.0, "move": "start"}


@pytest.mark.parametrize(
    ("read", "values"),
    [
        (problem_from_dict, problem_to_dict(PROBLEM)),
        (Solution.from_dict, solve(PROBLEM).to_dict()),
    ],
    ids=["problem", "solution"],
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_values_are_read_or_refused(
    read: Callable[[Any], Any], values: Any, data: st.DataObject
) -> None:
    read(values)
    with suppress(ValueError):
        read(data.draw(damaged_values(values)))


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=damaged_files(LINE) | st.binary(max_size=30), end=st.sampled_from([b"", b"\n"]))
def test_a_damaged_log_is_read_or_named(tmp_path: Path, content: bytes, end: bytes) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(content + end)
    try:
        refined = refine(PROBLEM, [0, 0, 1], lambda choices, spans: 1.0, 3, log=log)
    except ValueError as error:
        assert str(log) in str(error)  # noqa: PT017 - either is right
    else:
        assert isinstance(refined.value, float)


@pytest.mark.parametrize("value", ["x", [], True, float("nan"), float("inf")])
def test_a_measurement_that_is_no_number_is_refused(tmp_path: Path, value: Any) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({**LINE, "value": value}) + "\n")
    with pytest.raises(ValueError, match=r"line 1 of .* is not an evaluation .*value is"):
        refine(PROBLEM, [0, 0, 1], lambda choices, spans: 1.0, 3, log=log)
