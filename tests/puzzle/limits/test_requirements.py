"""Claims about constraints over scenarios, against whole layouts priced one by one."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puzzle.costs.checked import layout_cost, usable_blocks
from puzzle.costs.columns import block_columns, fixed_columns, layout_columns
from puzzle.costs.counted import with_counts
from puzzle.costs.roofline import Roofline
from puzzle.errors import ConstraintError, CostModelError
from puzzle.limits.constraints import Constraint, parse_constraint, parse_constraints
from puzzle.limits.requirements import Column, Term, limits, objective, requirements
from puzzle.limits.scenario import Scenario, Workload, rate
from search_space import Layout, ModelShape, SearchSpace
from solvers import ChoiceProblem, Limit, solve

SHAPE = ModelShape(
    layers=3, hidden=64, heads=4, head_dim=16, kv_heads=2, ffn_width=256, vocab=100, tied=False
)
SPACE = SearchSpace.uniform(SHAPE, attentions=["none"], ffns=["gated128", "none"])
CHAT = Scenario(batch=4, prompt_tokens=16, generated_tokens=64)
LONG = Scenario(batch=2, prompt_tokens=256, generated_tokens=8)
FLOAT = Scenario(weight_dtype="float32")
BOTH = Workload.of({"chat": (CHAT, 3.0), "summarise": (LONG, 1.0)})
COSTS = Roofline("rtx-4090", SHAPE)
PARENT = Layout.parent(SHAPE)
LAYOUTS = [
    Layout(SHAPE, blocks) for blocks in itertools.product(*(SPACE.blocks(i) for i in range(3)))
]


def kl(layer, block):
    return (layer + 1) * ((block.attention.kind == "none") + 1 - (block.ffn.width or 0) / 256)


def meets(layout, text, workload=BOTH):
    """Whether a layout is within a constraint, by the solver's columns and limits."""
    required = requirements(parse_constraints(text), workload)
    columns = [r.column for r in required]
    parent = layout_columns(COSTS, PARENT, columns)
    total = layout_columns(COSTS, layout, columns, score=kl)
    return all(limit.slack(total[limit.resource]) >= 0 for limit in limits(required, parent))


def own(layout, scenario):
    total = layout_cost(COSTS, layout, scenario)
    return {**total, **rate(total, scenario)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "throughput(chat) >= 1.3x",
            lambda lay: own(lay, CHAT)["throughput"] >= 1.3 * own(PARENT, CHAT)["throughput"],
        ),
        (
            "ttft(summarise) <= 0.8x",
            lambda lay: own(lay, LONG)["ttft"] <= 0.8 * own(PARENT, LONG)["ttft"],
        ),
        (
            "tpot <= 90%",
            lambda lay: all(
                own(lay, s)["tpot"] <= 0.9 * own(PARENT, s)["tpot"] for s in (CHAT, LONG)
            ),
        ),
        ("tpot(chat) <= 0.025 ms", lambda lay: own(lay, CHAT)["tpot"] <= 25e-6),
        (
            "memory <= 0.7 MiB at batch 32",
            lambda lay: all(
                own(lay, Scenario(batch=32, prompt_tokens=s.prompt_tokens,
                                  generated_tokens=s.generated_tokens))["memory"] <= 0.7 * 2**20
                for s in (CHAT, LONG)
            ),
        ),
        (
            "weight_memory <= 200 KiB",
            lambda lay: 2 * lay.parameters() <= 200 * 1024,
        ),
        (
            "throughput >= 1.2x",
            lambda lay: 3 * own(lay, CHAT)["seconds"] + own(lay, LONG)["seconds"]
            <= (3 * own(PARENT, CHAT)["seconds"] + own(PARENT, LONG)["seconds"]) / 1.2,
        ),
        (
            "throughput >= 150000 tokens/s",
            lambda lay: (3 * 4 * 64 + 2 * 8)
            / (3 * own(lay, CHAT)["seconds"] + own(lay, LONG)["seconds"]) >= 150000,
        ),
        ("kl <= 2", lambda lay: sum(kl(i, b) for i, b in enumerate(lay.blocks)) <= 2),
        (
            "flops(chat) <= 0.6x",
            lambda lay: own(lay, CHAT)["flops"] <= 0.6 * own(PARENT, CHAT)["flops"],
        ),
    ],
)  # fmt: skip
def test_a_constraint_admits_exactly_the_layouts_that_meet_it(text, expected):
    found = [meets(layout, text) for layout in LAYOUTS]
    assert found == [expected(layout) for layout in LAYOUTS]
    assert 0 < sum(found) < len(found)  # the case can tell right from wrong


@pytest.mark.parametrize("minimise", [None, "memory", "latency"])
def test_the_program_with_two_scenarios_finds_the_best_of_all_layouts(minimise):
    text = "throughput(chat) >= 1.2x, ttft(summarise) <= 0.9x, kl <= 5"
    asked = parse_constraints(text)
    required = requirements(asked, BOTH)
    goal = objective(minimise or "kl", BOTH, constraints=asked)
    columns = [goal, *(r.column for r in required)]
    rows = usable_blocks(COSTS, SPACE, BOTH.scenarios.values())
    parent = layout_columns(COSTS, PARENT, columns)
    values = block_columns(COSTS, rows, columns, score=kl)
    problem = ChoiceProblem(
        tuple(tuple(block.label for block in blocks) for blocks in rows),
        values[goal.name],
        {r.column.name: values[r.column.name] for r in required},
        offsets=fixed_columns(COSTS, SHAPE, [r.column for r in required]),
        limits=limits(required, parent),
    )
    allowed = [layout for layout in LAYOUTS if meets(layout, text)]
    totals = [layout_columns(COSTS, layout, [goal], score=kl)[goal.name] for layout in allowed]
    fixed = fixed_columns(COSTS, SHAPE, [goal])[goal.name]
    assert 1 < len(allowed) < len(LAYOUTS)
    assert solve(problem).objective + fixed == pytest.approx(min(totals), rel=1e-9)


class Euros:
    """A model with a unit of its own."""

    resources = {"euros_per_million_tokens": "EUR", "quality": "points"}  # noqa: RUF012

    def block_cost(self, layer, block, scenario):
        return {"euros_per_million_tokens": 0.5 if block.attention.kv_heads else 0.1, "quality": 2}

    def fixed_cost(self, shape, scenario):
        return {"euros_per_million_tokens": 0.2, "quality": 1}


def test_resources_that_a_model_names_are_constrained_by_name():
    text = "euros_per_million_tokens <= 1 EUR, quality >= 5, memory <= 60%"
    costs = with_counts(Euros(), SHAPE)
    asked = parse_constraints(text, resources=costs.resources)
    required = requirements(asked, CHAT)
    parent = layout_columns(costs, PARENT, [r.column for r in required])
    assert parent["euros_per_million_tokens"] == pytest.approx(1.7)
    assert limits(required, parent) == (
        Limit("euros_per_million_tokens", at_most=1.0),
        Limit("quality", at_least=5.0),
        Limit("memory", at_most=0.6 * parent["memory"]),
    )
    said = required[0].describe_infeasible(1.4, parent)
    assert said.endswith("the least this space reaches is 1.4 EUR (0.824x)")


def test_a_resource_that_the_model_does_not_give_is_named():
    (energy,) = requirements(parse_constraints("energy_per_token <= 0.5x"), CHAT)
    with pytest.raises(CostModelError, match="energy needs energy, which Roofline does not give"):
        layout_columns(COSTS, PARENT, [energy.column])
    with pytest.raises(ConstraintError, match=r"Unknown resource 'cycles'.*come with a cost model"):
        parse_constraint("cycles <= 3")


@settings(deadline=None)
@given(
    resource=st.sampled_from(["throughput", "memory", "tpot", "energy_per_token", "cycles"]),
    value=st.floats(min_value=1e-300, max_value=1e300),
    relative=st.booleans(),
    scenario=st.sampled_from([None, "chat", "summarise"]),
    at=st.dictionaries(
        st.sampled_from(["batch", "prompt_tokens", "generated_tokens"]), st.integers(1, 10**6)
    ),
)  # fmt: skip
def test_canonical_text_reads_back_with_scenario_place_and_own_units(
    resource, value, relative, scenario, at
):
    fields = ("batch", "prompt_tokens", "generated_tokens")
    constraint = Constraint(
        resource=resource,
        relation=">=" if resource == "throughput" else "<=",
        value=value,
        relative=relative,
        unit="Mcycles" if resource == "cycles" else None,
        scenario=scenario,
        at=tuple((field, at[field]) for field in fields if field in at),
    )
    again = parse_constraint(str(constraint), resources={"cycles": "Mcycles"})
    assert again == constraint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory <= 6 GiB at batch", "write 'at batch 32'"),
        ("memory <= 6 GiB at size 3", "write 'at batch 32'"),
        ("memory <= 6 GiB at batch 0", "write 'at batch 32'"),
        ("kl <= 2x", "kl is 0 for the parent"),
        ("tpot >= 3 ms", "takes only an upper bound"),
        ("ttft <= 3", "A unit is missing"),
        ("energy_per_token <= 3 W", "allowed units: J, mJ, kJ"),
    ],
)
def test_mistakes_are_answered_with_what_is_allowed(text, message):
    with pytest.raises(ConstraintError, match=message):
        parse_constraint(text)


def test_one_resource_may_be_constrained_once_in_each_scenario():
    texts = ["memory(chat) <= 1 GiB", "memory(summarise) <= 1 GiB", "memory <= 2 GiB at batch 2"]
    assert len(parse_constraints(texts)) == 3
    with pytest.raises(ConstraintError, match="constrained twice"):
        parse_constraints([*texts, "memory(chat) <= 0.5x"])


def test_a_scenario_that_is_not_there_is_named():
    asked = parse_constraints("throughput(chta) >= 2x")
    with pytest.raises(ConstraintError, match=r"no scenario 'chta'; there are: chat, summarise"):
        requirements(asked, BOTH)
    with pytest.raises(ConstraintError, match="there are: none with a name"):
        requirements(asked, CHAT)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "needs a scenario"),
        ({"a b": CHAT}, "'a b' cannot be used in a constraint"),
        ({"": CHAT, "x": LONG}, "'' cannot be used"),
        ({"chat": (CHAT, 0.0)}, "weight of scenario 'chat' is 0.0"),
        ({"chat": (CHAT, math.inf)}, "give a number above zero"),
        ({"chat": 3}, "give a Scenario"),
        ({"x": Scenario(weight_dtype="bfloat16"), "y": FLOAT}, "bfloat16, float32; one child"),
        (3, "is not a scenario"),
    ],
)
def test_workloads_that_make_no_sense_are_refused(given, message):
    with pytest.raises(ConstraintError, match=message):
        Workload.of(given)


def test_a_single_scenario_without_a_name_has_the_columns_of_the_cost_model():
    required = requirements(parse_constraints("throughput >= 2x, memory <= 80%"), CHAT)
    assert [r.column for r in required] == [
        Column("seconds", (Term(1.0, "seconds", CHAT),)),
        Column("memory", (Term(1.0, "memory", CHAT),)),
    ]


def test_what_to_minimise_has_to_be_better_when_smaller_and_the_kl_limited():
    kl_limited = parse_constraints("kl <= 0.1")
    with pytest.raises(ConstraintError, match="better when larger; minimise 'latency'"):
        objective("throughput", CHAT, constraints=kl_limited)
    with pytest.raises(ConstraintError, match="without a limit on the KL"):
        objective("memory", CHAT)
    assert objective("kl", CHAT).terms == (Term(1.0, "kl", CHAT),)
    mixed = objective("cycles", BOTH, constraints=kl_limited, resources={"cycles": "cycles"})
    assert mixed.terms == (Term(3.0, "cycles", CHAT), Term(1.0, "cycles", LONG))
    with pytest.raises(ConstraintError, match=r"Unknown resource 'cycles'"):
        objective("cycles", CHAT, constraints=kl_limited)


def test_columns_list_every_block_of_every_layer_in_order():
    column = Column("twice", (Term(2.0, "parameters", CHAT), Term(1.0, "kl", CHAT)))
    values = block_columns(COSTS, [SPACE.blocks(i) for i in range(3)], [column], score=kl)["twice"]
    expected = [
        2 * COSTS.block_cost(i, b, CHAT)["parameters"] + kl(i, b)
        for i in range(3)
        for b in SPACE.blocks(i)
    ]
    np.testing.assert_allclose(values, expected)
