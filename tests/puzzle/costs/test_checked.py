import math

import numpy as np
import pytest

from puzzle.costs.checked import (
    check_resources,
    checked_block_cost,
    checked_fixed_cost,
    layout_cost,
    usable_blocks,
)
from puzzle.costs.correction import Corrected
from puzzle.costs.counted import with_counts
from puzzle.costs.per_scenario import PerScenario
from puzzle.costs.protocol import STANDARD_UNITS, counted_cost
from puzzle.costs.roofline import Roofline
from puzzle.errors import ConstraintError, CostModelError
from puzzle.limits.scenario import Scenario
from search_space import FFN, Attention, Block, Layout, ModelShape, SearchSpace, counting

SHAPE = ModelShape(
    layers=3, hidden=8, heads=4, head_dim=2, kv_heads=2, ffn_width=32, vocab=50, tied=False
)
SPACE = SearchSpace.uniform(SHAPE, attentions=["gqa1", "none"], ffns=["gated16", "linear", "none"])
SCENARIO = Scenario(batch=2, prompt_tokens=5, generated_tokens=3)
BLOCK = Block.from_label("gqa1+gated16")


class Own:
    """A model with one resource of its own and whatever a test wants returned."""

    def __init__(self, block=None, fixed=None, resources=None):
        self.resources = resources or {"cycles": "cycles"}
        self._block = (lambda layer, block: {"cycles": 1.0}) if block is None else block
        self._fixed = {"cycles": 5.0} if fixed is None else fixed

    def block_cost(self, layer, block, scenario):
        return self._block(layer, block)

    def fixed_cost(self, shape, scenario):
        return self._fixed


def test_a_layout_costs_its_fixed_part_and_the_sum_of_its_blocks():
    costs = Own(lambda layer, block: {"cycles": 10.0**layer})
    assert layout_cost(costs, Layout.parent(SHAPE), SCENARIO) == {"cycles": 116.0}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"cycles": math.nan}, "Own: block gqa1.gated16 of layer 2 has cycles = nan"),
        ({"cycles": "12"}, "gqa1.gated16 of layer 2 has cycles = '12'; give a number"),
        ({"cycles": True}, "cycles = True; give a number"),
        ({"cycles": None}, "cycles = None"),
        ({"cycles": -1.0}, "cycles = -1.0; give a number of 0 or more"),
        ({"cycles": -math.inf}, "cycles = -inf"),
        ({"cycels": 1.0}, r"lacks cycles and has 'cycels' \(is it 'cycles'\?\); return exactly"),
        ({}, "gqa1.gated16 of layer 2 lacks cycles"),
        ({"cycles": 1.0, "watts": 1.0}, "has 'watts'; return exactly cycles"),
        (3.0, "block gqa1.gated16 of layer 2 costs 3.0; return a mapping of cycles"),
    ],
)
def test_what_is_no_cost_is_refused_with_the_name_of_the_block(returned, message):
    with pytest.raises(CostModelError, match=message):
        checked_block_cost(Own(lambda layer, block: returned), 2, BLOCK, SCENARIO)


def test_numbers_of_numpy_are_numbers():
    costs = Own(lambda layer, block: {"cycles": np.float32(0.5)})
    assert checked_block_cost(costs, 0, BLOCK, SCENARIO) == {"cycles": 0.5}


def test_an_infinite_fixed_cost_is_refused():
    with pytest.raises(CostModelError, match="cycles = inf: no model of this parent can run"):
        checked_fixed_cost(Own(fixed={"cycles": math.inf}), SHAPE, SCENARIO)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (("seconds",), r"give the unit of each resource by name"),
        ({"seconds": "ms"}, "'seconds' in 'ms'; this name always means 's'"),
        ({"my cycles": "cycles"}, "names are words"),
        ({"cycles": 3}, "units are text"),
    ],
)
def test_resources_are_names_with_units(declared, message):
    with pytest.raises(CostModelError, match=message):
        check_resources(Own(resources=declared))
    assert check_resources(Own()) == {"cycles": "cycles"}


def test_blocks_of_infinite_cost_are_dropped_from_the_layers_they_cannot_run_in():
    def block(layer, block):
        return {"cycles": math.inf if layer == 1 and block.attention.kv_heads == 2 else 1.0}

    rows = usable_blocks(Own(block), SPACE, SCENARIO)
    assert rows[0] == SPACE.blocks(0)
    assert rows[2] == SPACE.blocks(2)
    assert rows[1] == tuple(b for b in SPACE.blocks(1) if b.attention.kv_heads != 2)


def test_a_block_has_to_run_in_every_scenario():
    class Long(Own):
        def block_cost(self, layer, block, scenario):
            tight = scenario.batch > 2 and block.ffn.width == 32
            return {"cycles": math.inf if tight else 1.0}

    rows = usable_blocks(Long(), SPACE, [SCENARIO, Scenario(batch=64)])
    assert {block.ffn.width for row in rows for block in row} == {16, None}


def test_a_layer_in_which_nothing_can_run_is_named():
    costs = Own(lambda layer, block: {"cycles": math.inf if layer == 1 else 1.0})
    with pytest.raises(ConstraintError, match="no block of layer 1 can run: Own gives all 12"):
        usable_blocks(costs, SPACE, SCENARIO)


def test_what_is_wrong_with_a_cost_is_said_of_the_model_that_a_user_wrote():
    costs = with_counts(Own(lambda layer, block: {"cycles": math.nan}), SHAPE)
    assert type(costs) is not Own
    with pytest.raises(
        CostModelError, match=r"^Own: block gqa2\+gated32 of layer 0 has cycles = nan"
    ):
        layout_cost(costs, Layout.parent(SHAPE), SCENARIO)


class Raising(Own):
    def fixed_cost(self, shape, scenario):
        raise ZeroDivisionError("no clock")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda costs: costs,
        lambda costs: with_counts(costs, SHAPE),
        lambda costs: with_counts(PerScenario({SCENARIO: Corrected(costs, {})}), SHAPE),
    ],
)
def test_an_exception_of_a_users_model_names_its_class_the_call_and_the_line(wrap):
    rows = {"gqa1+gated16": {"cycles": 1.0}}
    costs = wrap(Raising(lambda layer, block: rows[block.label]))
    with pytest.raises(
        CostModelError,
        match=r"^Raising.block_cost, for block gqa2\+gated32 of layer 1, raises KeyError: "
        r"'gqa2\+gated32' \(test_checked.py, line \d+\)$",
    ) as raised:
        checked_block_cost(costs, 1, SHAPE.parent_blocks[1], SCENARIO)
    assert isinstance(raised.value.__cause__, KeyError)
    with pytest.raises(
        CostModelError, match=r"^Raising.fixed_cost raises ZeroDivisionError: no clock"
    ):
        checked_fixed_cost(costs, SHAPE, SCENARIO)
    with pytest.raises(CostModelError, match=r"^Raising: block gqa1.* costs 3.0; return a mapping"):
        checked_block_cost(wrap(Raising(lambda layer, block: 3.0)), 2, BLOCK, SCENARIO)


def test_an_exception_inside_a_model_of_puzzle_is_not_put_on_its_user():
    costs = Roofline("h100-sxm", SHAPE)
    with pytest.raises(AttributeError):
        checked_block_cost(costs, 0, "gqa1+gated16", SCENARIO)


def test_counts_are_added_where_a_model_is_silent_and_only_there():
    costs = with_counts(Own(), SHAPE)
    assert dict(costs.resources) == {
        "cycles": "cycles",
        **{
            name: STANDARD_UNITS[name]
            for name in ("memory", "kv_cache", "parameters", "flops", "peak_memory")
        },
    }
    total = layout_cost(costs, Layout.parent(SHAPE), SCENARIO)
    layout = Layout.parent(SHAPE)
    assert total["cycles"] == 8.0
    assert total["parameters"] == layout.parameters()
    assert total["kv_cache"] == SCENARIO.total_tokens * layout.kv_bytes_per_token()
    assert total["memory"] == 2 * layout.parameters() + total["kv_cache"]
    own = Own(
        lambda layer, block: {"memory": 7.0}, fixed={"memory": 0.0}, resources={"memory": "bytes"}
    )
    total = layout_cost(with_counts(own, SHAPE), layout, SCENARIO)
    assert total["memory"] == 21.0
    # At its peak a prompt's activations and one position's logits come on top, by hand.
    tokens = SCENARIO.batch * SCENARIO.prompt_tokens
    channels = 2 * SHAPE.hidden + SHAPE.heads * SHAPE.head_dim + 2 * SHAPE.ffn_width
    beside = 2 * tokens * channels + 4 * SCENARIO.batch * SHAPE.vocab
    assert total["peak_memory"] == 21.0 + beside


@pytest.mark.parametrize(
    "label",
    ["gqa2+gated32", "gqa1+linear", "gqa1h2+none", "gqa2w3+none", "linear+none", "none+gated16"],
)
def test_flops_are_those_of_the_matrix_products_run_token_by_token(label):
    """Every product is done by numpy and its multiply-adds counted from the operands' shapes."""
    block, batch, length, flops = Block.from_label(label), 2, 7, 0

    def product(rows, inner, columns):
        nonlocal flops
        shape = (np.ones((rows, inner)) @ np.ones((inner, columns))).shape
        flops += 2 * shape[0] * shape[1] * inner

    heads = block.attention.heads or SHAPE.heads
    width = heads * SHAPE.head_dim
    for _ in range(batch):
        for position in range(length):
            seen = min(position + 1, block.attention.window or length)
            if block.attention.kind == "gqa":
                for columns in (width, *[block.attention.kv_heads * SHAPE.head_dim] * 2):
                    product(1, SHAPE.hidden, columns)
                for _ in range(heads):
                    product(1, SHAPE.head_dim, seen)
                    product(1, seen, SHAPE.head_dim)
                product(1, width, SHAPE.hidden)
            if block.attention.kind == "linear":
                product(1, SHAPE.hidden, SHAPE.hidden)
            if block.ffn.kind == "gated":
                product(1, SHAPE.hidden, 2 * block.ffn.width)
                product(1, block.ffn.width, SHAPE.hidden)
            if block.ffn.kind == "linear":
                product(1, SHAPE.hidden, SHAPE.hidden)
    scenario = Scenario(batch=batch, prompt_tokens=4, generated_tokens=3)
    pairs = scenario.pairs_within(block.attention.window)
    counted = counting.block_flops(SHAPE, block, tokens=scenario.total_tokens, pairs=pairs)
    assert counted == flops


def test_removing_everything_costs_no_operations_and_no_bytes():
    nothing = Block(Attention("none"), FFN("none"))
    assert counting.block_flops(SHAPE, nothing, tokens=10, pairs=55) == 0
    assert set(counted_cost(SHAPE, nothing, SCENARIO).values()) == {0.0}
