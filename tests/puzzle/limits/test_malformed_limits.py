"""Whatever is read as a constraint or a workload gives a value or a ConstraintError."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from puzzle.errors import ConstraintError
from puzzle.limits.constraints import parse_constraint, parse_constraints
from puzzle.limits.scenario import Scenario, Workload

NAMES = ("throughput", "latency", "memory", "parameters", "memory(chat)", "")
AMOUNTS = ("1.25x", "6 GiB", "800 ms", "80%", "1e999x", "1e-999 s", "9" * 5000, "nan", "-1", "")
PLACES = ("", " at batch 32", " at batch 1000000000000", " at batch " + "9" * 5000, " at prompt 0")
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
LEAVES = VALUES | st.sampled_from([10**12, 10**400])


@given(
    name=st.sampled_from(NAMES) | st.text(max_size=8),
    relation=st.sampled_from([">=", "<=", "<", "==", ""]),
    amount=st.sampled_from(AMOUNTS) | st.text(max_size=8),
    place=st.sampled_from(PLACES),
)
@example(name="memory", relation="<=", amount="6 GiB", place=" at batch " + "9" * 5000)
def test_a_constraint_is_read_or_refused(name: str, relation: str, amount: str, place: str) -> None:
    with suppress(ConstraintError):
        constraint = parse_constraint(f"{name} {relation} {amount}{place}")
        assert parse_constraint(str(constraint)) == constraint


@given(field=st.sampled_from(list(Scenario().to_dict())), value=LEAVES | st.lists(LEAVES))
def test_a_scenario_is_read_or_refused(field: str, value: Any) -> None:
    with suppress(ConstraintError):
        scenario = Scenario.from_dict({**Scenario().to_dict(), field: value})
        assert Scenario.from_dict(scenario.to_dict()) == scenario


@pytest.mark.parametrize("value", [None, 1, True, "", [], {}, {"scenario": 3, "weight": 1}])
def test_a_malformed_workload_is_named(value: Any) -> None:
    with pytest.raises(ConstraintError, match="workload"):
        Workload.from_dict({"chat": value})


@pytest.mark.parametrize("given", [None, 3, 0.5, True])
def test_what_is_no_text_is_no_constraint(given: Any) -> None:
    with pytest.raises(ConstraintError, match="is not a constraint"):
        parse_constraints(given)


@pytest.mark.parametrize("text", ["memory <= " + " " * 200_000 + "x", "(" * 10**6, "9" * 10**6])
def test_a_text_of_any_length_is_refused_at_once(text: str) -> None:
    with pytest.raises(ConstraintError, match="at most 500 characters"):
        parse_constraint(text)


@pytest.mark.parametrize("count", [10**13, 10**400])
def test_a_scenario_that_no_machine_serves_is_refused(count: int) -> None:
    with pytest.raises(ConstraintError, match="batch is above"):
        Scenario(batch=count)
