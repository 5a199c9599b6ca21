"""Whatever is read as a constraint or a workload gives a value or a ConstraintError."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from puzzle.errors import ConstraintError
from puzzle.limits.constraints import parse_constraint
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
