import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puzzle.errors import ConstraintError
from puzzle.limits.constraints import Constraint, parse_constraint, parse_constraints
from puzzle.limits.objectives import minimised
from puzzle.limits.requirements import describe_infeasible, to_limit, to_limits
from puzzle.limits.scenario import Scenario, rate
from solvers import Limit

FASTER = ["throughput", "decode_throughput", "prefill_throughput"]
SMALLER = ["latency", "memory", "kv_cache", "parameters"]
SCENARIO = Scenario(batch=4, prompt_tokens=100, generated_tokens=50)
PARENT = {
    "prefill_seconds": 1.0,
    "decode_seconds": 3.0,
    "seconds": 4.0,
    "memory": 1000.0,
    "kv_cache": 200.0,
    "parameters": 500.0,
}
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)


@st.composite
def constraints(draw):
    resource = draw(st.sampled_from(FASTER + SMALLER))
    relation = ">=" if resource in FASTER else "<="
    value = draw(positive | st.integers(1, 10**13).map(float))
    return Constraint(
        resource=resource, relation=relation, value=value, relative=draw(st.booleans())
    )


@pytest.mark.parametrize(
    ("text", "resource", "value", "relative"),
    [
        ("throughput >= 1.25x", "throughput", 1.25, True),
        ("throughput>=1200", "throughput", 1200, False),
        ("throughput ≥ 1200 tokens/s", "throughput", 1200, False),
        ("decode_throughput > 1.3x", "decode_throughput", 1.3, True),
        ("prefill_throughput >= 1×", "prefill_throughput", 1, True),  # noqa: RUF001
        ("memory <= 6 GiB", "memory", 6 * 2**30, False),
        ("memory <= 6gib", "memory", 6 * 2**30, False),
        ("memory < 6 GB", "memory", 6e9, False),
        ("memory <= 0.8x", "memory", 0.8, True),
        ("memory ≤ 80%", "memory", 0.8, True),
        ("kv_cache <= 512 KiB", "kv_cache", 512 * 1024, False),
        ("parameters <= 111.5M", "parameters", 111_500_000, False),
        ("parameters <= 1.1 B", "parameters", 1.1e9, False),
        ("parameters <= 1000", "parameters", 1000, False),
        ("latency <= 2.5 s", "latency", 2.5, False),
        ("latency <= 800 ms", "latency", 0.8, False),
    ],
)
def test_texts_mean_what_they_say(text, resource, value, relative):
    relation = ">=" if resource in FASTER else "<="
    expected = Constraint(resource=resource, relation=relation, value=value, relative=relative)
    assert parse_constraint(text) == expected


@settings(deadline=None)  # the cores are shared
@given(constraints())
def test_canonical_text_reads_back_as_an_equal_constraint(constraint):
    assert parse_constraints(str(constraint)) == (constraint,)
    assert str(parse_constraint(str(constraint))) == str(constraint)


@pytest.mark.parametrize(
    "text",
    [
        "memory <= 6 GiB",
        "memory <= 1.5 GB",
        "parameters <= 111.5M",
        "latency <= 2.5 s",
        "throughput >= 1200 tokens/s",
        "throughput >= 1.25x",
        "kv_cache <= 0.8x",
    ],
)
def test_canonical_text_is_the_natural_one(text):
    assert str(parse_constraint(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thruput >= 2x", "Unknown resource 'thruput'.* did you mean 'throughput'.*kv_cache"),
        ("Memory <= 2 GiB", "did you mean 'memory'"),
        ("watts <= 2x", "Known resources are throughput"),
        ("throughput <= 2x", "takes only a lower bound; write 'throughput >= "),
        ("memory >= 2 GiB", "takes only an upper bound; write 'memory <= "),
        ("memory <= 2 s", "Unit 's' does not fit memory; allowed units: KiB"),
        ("memory <= 2 Gb", "Unit 'Gb' does not fit"),
        ("memory <= 6", "A unit is missing for '6' of memory; allowed units: .*GiB"),
        ("latency <= 6", "A unit is missing"),
        ("latency <= 2 GiB", "allowed units: s, ms"),
        ("throughput >= 2 GiB", "allowed units: tokens/s"),
        ("throughput >= 1 200", "Unit '200' does not fit"),
        ("memory <= much", "write a number and a unit"),
        ("memory <= ", "write a number and a unit"),
        ("memory == 2 GiB", "Cannot read constraint"),
        ("memory", "Cannot read constraint"),
        ("", "Cannot read constraint"),
    ],
)
def test_mistakes_are_answered_with_what_is_allowed(text, message):
    with pytest.raises(ConstraintError, match=message):
        parse_constraint(text)


@pytest.mark.parametrize(
    "amount", ["0", "-1", "nan", "inf", "-inf", "1e999", "1e-999", "1e9999999"]
)
@pytest.mark.parametrize("start", ["throughput >= {}x", "memory <= {} GiB", "latency <= {} ms"])
def test_values_must_be_finite_and_positive(start, amount):
    with pytest.raises(ConstraintError, match="finite values above zero"):
        parse_constraint(start.format(amount))


@pytest.mark.parametrize("value", [True, "2", None, math.nan, math.inf, 0, -1, 10**400])
def test_constraints_made_by_hand_are_checked_too(value):
    with pytest.raises(ConstraintError, match="positive number"):
        Constraint(resource="memory", relation="<=", value=value)


def test_one_resource_may_be_constrained_once():
    with pytest.raises(ConstraintError, match=r"memory is constrained twice.*'memory <= 1 GiB'"):
        parse_constraints(["memory <= 1 GiB", "memory <= 0.5x"])


def test_texts_and_constraints_may_be_mixed():
    memory = parse_constraint("memory <= 1 GiB")
    assert parse_constraints([memory, "throughput >= 2x, latency <= 1 s"]) == (
        memory,
        parse_constraint("throughput >= 2x"),
        parse_constraint("latency <= 1 s"),
    )
    assert parse_constraints(memory) == (memory,)
    assert parse_constraints([]) == ()
    with pytest.raises(ConstraintError, match="pass str or Constraint"):
        parse_constraints([3])


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("throughput >= 100", Limit("seconds", at_most=2.0)),
        ("throughput >= 2x", Limit("seconds", at_most=2.0)),
        ("decode_throughput >= 100", Limit("decode_seconds", at_most=2.0)),
        ("decode_throughput >= 1.5x", Limit("decode_seconds", at_most=2.0)),
        ("prefill_throughput >= 100", Limit("prefill_seconds", at_most=4.0)),
        ("latency <= 800 ms", Limit("seconds", at_most=0.8)),
        ("latency <= 50%", Limit("seconds", at_most=2.0)),
        ("memory <= 80%", Limit("memory", at_most=800.0)),
        ("kv_cache <= 0.5x", Limit("kv_cache", at_most=100.0)),
        ("parameters <= 1K", Limit("parameters", at_most=1000.0)),
    ],
)
def test_constraints_become_limits_on_additive_resources(text, limit):
    assert to_limits(parse_constraints(text), parent=PARENT, scenario=SCENARIO) == (limit,)


@settings(deadline=None)  # the cores are shared
@given(
    resource=st.sampled_from(FASTER),
    value=st.floats(1e-3, 1e6),
    relative=st.booleans(),
    prefill=st.floats(1e-4, 1e4),
    decode=st.floats(1e-4, 1e4),
)
def test_a_model_within_the_limit_is_exactly_one_that_is_fast_enough(
    resource, value, relative, prefill, decode
):
    constraint = Constraint(resource=resource, relation=">=", value=value, relative=relative)
    limit = to_limit(constraint, parent=PARENT, scenario=SCENARIO)
    child = {"prefill_seconds": prefill, "decode_seconds": decode, "seconds": prefill + decode}
    reached = rate(child, SCENARIO)[resource]
    needed = value * rate(PARENT, SCENARIO)[resource] if relative else value
    if not math.isclose(reached, needed, rel_tol=1e-9):  # on the very edge rounding decides
        assert (child[limit.resource] <= limit.at_most) == (reached >= needed)


def test_only_the_tighter_of_two_bounds_on_the_same_resource_is_kept():
    both = ["throughput >= 2x", "latency <= 1 s"]
    for texts in (both, both[::-1]):
        limits = to_limits(parse_constraints(texts), parent=PARENT, scenario=SCENARIO)
        assert limits == (Limit("seconds", at_most=1.0),)


def test_a_relative_constraint_needs_a_sound_parent():
    constraint = parse_constraint("memory <= 0.5x")
    with pytest.raises(ConstraintError, match=r"lack 'memory' \(given: seconds\)"):
        to_limit(constraint, parent={"seconds": 1.0}, scenario=SCENARIO)
    with pytest.raises(ConstraintError, match="memory = nan"):
        to_limit(constraint, parent={"memory": math.nan}, scenario=SCENARIO)
    absolute = parse_constraint("memory <= 5 B")
    assert to_limit(absolute, parent={}, scenario=SCENARIO).at_most == 5


def test_a_bound_that_overflows_is_refused():
    with pytest.raises(ConstraintError, match="limits nothing"):
        to_limit(parse_constraint("memory <= 1e308x"), parent=PARENT, scenario=SCENARIO)


def test_rates_are_tokens_over_their_own_seconds():
    expected = {
        "throughput": 50.0,
        "decode_throughput": 200 / 3,
        "prefill_throughput": 400.0,
        "latency": 4.0,
        "ttft": 1.0,
        "tpot": 3.0 / 50,
    }
    assert rate(PARENT, SCENARIO) == expected
    assert rate({"prefill_seconds": 1.0, "decode_seconds": 3.0}, SCENARIO) == expected
    with pytest.raises(ConstraintError, match="prefill_seconds = 0"):
        rate({"prefill_seconds": 0.0, "decode_seconds": 3.0}, SCENARIO)


@pytest.mark.parametrize(
    ("text", "reached", "parent", "figures"),
    [
        ("throughput >= 9x", 412.0, {"throughput": 120.4}, "most .* 3.42x (412 tokens/s)"),
        ("throughput >= 9000", 412.0, {"throughput": 120.4}, "most .* 412 tokens/s (3.42x)"),
        ("throughput >= 9x", 412.0, {}, "most .* 412 tokens/s"),
        ("memory <= 1 GiB", 1.5 * 2**30, {"memory": 2.0**31}, "least .* 1.5 GiB (0.75x)"),
        ("latency <= 10%", 0.25, {"seconds": 1.0}, "least .* 0.25x (250 ms)"),
        ("parameters <= 1M", 111.5e6, {}, "least .* 112M"),
        ("parameters <= 1M", 2.5e9, {}, "least .* 2.5 B"),
    ],
)
def test_infeasible_says_how_near_the_space_comes(text, reached, parent, figures):
    said = describe_infeasible(parse_constraint(text), reached, parent)
    word, number = figures.split(" .* ")
    claim = f"cannot be reached: the {word} this space reaches is {number}"
    assert said == f"{parse_constraint(text)} {claim}"


def test_infeasible_never_rounds_up_to_what_was_asked():
    said = describe_infeasible(parse_constraint("throughput >= 2x"), 199.99, {"throughput": 100.0})
    assert said.endswith("is 1.99x (199 tokens/s)")


@settings(deadline=None)  # the cores are shared
@given(constraints(), positive, positive)
def test_infeasible_always_has_words(constraint, reached, parent):
    said = describe_infeasible(constraint, reached, {constraint.resource: parent})
    assert re.search(r"the (most|least) this space reaches is \d", said)


def test_infeasible_with_nothing_reachable():
    said = describe_infeasible(parse_constraint("throughput >= 2x"), 0.0, {})
    assert said.endswith("no value of throughput can be reached at all")


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ({"throughput": "1.25x", "memory": "6 GiB"}, "throughput >= 1.25x, memory <= 6 GiB"),
        ({"memory(chat)": "<= 80% at batch 32"}, "memory(chat) <= 80% at batch 32"),
        ({"kl": 0.1, "parameters": 100_000_000}, "kl <= 0.1, parameters <= 100M"),
        ({"cycles": ">= 4"}, "cycles >= 4"),
    ],
)
def test_constraints_as_a_mapping_are_those_that_are_written(given, same):
    resources = {"cycles": "cycles"}
    read = [parse_constraints(each, resources=resources) for each in (given, same)]
    assert read[0] == read[1]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"cycles": 4}, "write '>= 4' or '<= 4'"),
        ({"memory": True}, "given as True; write an amount"),
        ({"memory": ["6 GiB"]}, "write an amount"),
        ({"memory": ">= 6 GiB"}, "takes only an upper bound"),
        ({"speed": "2x"}, "Unknown resource 'speed'"),
    ],
)
def test_a_mapping_that_says_too_little_is_refused(given, match):
    with pytest.raises(ConstraintError, match=match):
        parse_constraints(given, resources={"cycles": "cycles"})


def test_one_objective_has_several_words():
    for name, seconds in (("throughput", "seconds"), ("prefill_throughput", "prefill_seconds")):
        assert minimised(maximize=name) == minimised(objective=name) == seconds
    assert minimised(objective="memory") == minimised(minimize="memory") == "memory"
    assert minimised() == minimised(minimise="kl") == "kl"
    with pytest.raises(ConstraintError, match="minimise='memory', or maximize one of throughput"):
        minimised(maximize="memory")
    with pytest.raises(ConstraintError, match="minimise='kl' and objective='memory' are given"):
        minimised(minimise="kl", objective="memory")
