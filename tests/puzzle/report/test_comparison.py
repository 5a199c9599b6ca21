"""Claims about typed figures of parent and child."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puzzle.limits.scenario import Scenario, rate
from puzzle.report.comparison import Comparison, Figures
from puzzle.report.record import SearchRecord

SCENARIO = Scenario(batch=2, prompt_tokens=16, generated_tokens=4)
NAMES = ["prefill_seconds", "decode_seconds", "memory", "kl", "kl_error", "cycles", "agreement"]
TOTALS = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1e12))


@given(TOTALS, TOTALS)
def test_what_is_written_is_read_again_and_what_is_unknown_stays_none(parent, child):
    values = {"parent": parent, "child": child}
    both = Comparison.from_dict(values, SCENARIO)
    assert both.to_dict() == values
    assert Comparison.from_dict(json.loads(json.dumps(both.to_dict())), SCENARIO) == both
    for name in NAMES:
        kept = both.child.others.get(name) if name == "cycles" else getattr(both.child, name)
        assert kept == child.get(name)


def test_rates_are_those_of_the_scenario():
    figures = Figures(scenario=SCENARIO, prefill_seconds=0.5, decode_seconds=1.5)
    expected = rate({"prefill_seconds": 0.5, "decode_seconds": 1.5}, SCENARIO)
    assert figures.rates() == expected
    assert figures.throughput == expected["throughput"] == 2 * 4 / 2.0
    assert figures.decode_throughput == 2 * 4 / 1.5
    alone = Figures(scenario=SCENARIO, seconds=2.0)
    assert alone.rates() == {"throughput": 4.0, "latency": 2.0}
    assert alone.prefill_throughput is None


@pytest.mark.parametrize("seconds", [None, math.inf, 0.0])
def test_seconds_that_are_no_time_give_no_rate_and_no_ratio(seconds):
    unknown = Figures(scenario=SCENARIO, seconds=seconds)
    both = Comparison(parent=unknown, child=Figures(scenario=SCENARIO, seconds=1.0))
    assert both.ratio("throughput") is None
    assert both.speedup() == {}


def test_a_ratio_is_the_childs_over_the_parents():
    values = {"parent": {"seconds": 3.0, "cycles": 8.0}, "child": {"seconds": 2.0, "cycles": 2.0}}
    both = Comparison.from_dict(values, SCENARIO)
    assert both.ratio("cycles") == 0.25
    assert both.ratio("throughput") == pytest.approx(1.5)
    assert both.ratio("memory") is None


def test_a_record_of_a_search_is_read_as_it_was_written(found):
    values = json.loads(json.dumps(found.to_dict()))
    again = SearchRecord.from_dict(values, evidence=found.evidence)
    assert again.to_dict() == found.to_dict()
    assert again.table() == found.table()
    assert again.gain() == found.gain()
    assert set(values["measured"]["child"]) >= {"seconds", "memory", "kl", "perplexity"}
    assert again.measured.child.flops is None
