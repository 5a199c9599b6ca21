"""Claims about the conformance check: what is sound passes, each fault is caught."""

import itertools
import runpy
from pathlib import Path

import pytest

from puzzle.costs.cost_table import Table
from puzzle.costs.counted import with_counts
from puzzle.costs.measured.sublayers import MeasuredCosts
from puzzle.costs.protocol import RESOURCES
from puzzle.costs.roofline import Roofline
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from puzzle.testing import check_cost_model
from search_space import ModelShape, SearchSpace

SHAPE = ModelShape(
    layers=3, hidden=64, heads=4, head_dim=16, kv_heads=2, ffn_width=256, vocab=100, tied=False
)
SPACE = SearchSpace.uniform(
    SHAPE, attentions=["gqa1", "linear", "none"], ffns=["gated128", "linear", "none"]
)
SCENARIO = Scenario(batch=2, prompt_tokens=8, generated_tokens=4)
SOUND = Roofline("h100-sxm", SHAPE)


def measured():
    parts = {f"{a}+none": 1.0 + a.startswith("gqa2") for a in ("gqa2", "gqa1", "linear")}
    parts |= {f"none+{f}": 1.0 + (f == "gated256") for f in ("gated256", "gated128", "linear")}
    seconds = {k: {"prefill": v, "decode": v / 4} for k, v in {**parts, "fixed": 1.0}.items()}
    return MeasuredCosts(SHAPE, seconds, {})


def table(tmp_path):
    path = tmp_path / "costs.csv"
    rows = ["attention,ffn,cycles [cycles]", "gqa2,,4", "gqa1,,3", "linear,,2"]
    path.write_text("\n".join([*rows, ",gated256,9", ",gated128,5", ",linear,1"]))
    return Table(path)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("weights", [None, "fp8", "int4"])
def test_every_roofline_passes(devices, weights):
    costs = Roofline("h100-sxm", SHAPE, tensor_parallel=devices, weight_dtype=weights)
    check_cost_model(costs, SPACE, SCENARIO)
    check_cost_model(costs, SHAPE)


def test_measured_costs_tables_and_counted_models_pass(tmp_path):
    check_cost_model(measured(), SPACE, SCENARIO)
    check_cost_model(table(tmp_path), SPACE, SCENARIO)
    check_cost_model(with_counts(table(tmp_path), SHAPE), SPACE, SCENARIO)


class Broken:
    """The roofline with one thing changed."""

    def __init__(self, change=None, fixed=None, **attributes):
        self.resources = SOUND.resources
        self._change, self._fixed = change or (lambda block, cost: {}), fixed or (lambda: {})
        vars(self).update(attributes)

    def block_cost(self, layer, block, scenario):
        cost = SOUND.block_cost(layer, block, scenario)
        return {**cost, **self._change(block, cost)}

    def fixed_cost(self, shape, scenario):
        return {**SOUND.fixed_cost(shape, scenario), **self._fixed()}


COUNTER = itertools.count()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Broken(lambda b, c: {"flops": float("nan")}), r"block gqa2\+gated256 .* flops = nan"),
        (Broken(lambda b, c: {"flops": "many"}), "flops = 'many'"),
        (Broken(lambda b, c: {"watts": 1.0}), "has 'watts'"),
        (Broken(lambda b, c: {"flops": -1.0}), "flops = -1"),
        (Broken(lambda b, c: {"flops": float(next(COUNTER))}), "something different each time"),
        (
            Broken(fixed=lambda: {"flops": float(next(COUNTER))}),
            "fixed cost is different each time",
        ),
        (Broken(lambda b, c: {"seconds": 2 * c["seconds"]}), r"prefill_seconds \+ decode_seconds"),
        (Broken(lambda b, c: {"kv_cache": 2 * c["memory"] + 1}), "which includes it"),
        (
            Broken(lambda b, c: {n: c[n] / 2**20 for n in ("memory", "kv_cache", "peak_memory")}),
            "memory is in bytes",
        ),
        (Broken(lambda b, c: {"parameters": c["parameters"] / 1e6}), "parameters is a count"),
        (
            Broken(lambda b, c: {"flops": 1e12 / (1 + (b.ffn.width or 0))}),
            r"flops of gqa2\+gated128 is .* more than .* larger gqa2\+gated256",
        ),
        (
            Broken(lambda b, c: {"flops": 1e12 / (1 + (b.attention.kv_heads or 0))}),
            r"flops of gqa1\+gated256 is .* larger gqa2\+gated256",
        ),
        (
            Broken(lambda b, c: {"flops": 1 + c["flops"] ** 2}, additive="sublayers"),
            "but of its two sublayers",
        ),
        (Broken(resources={**RESOURCES, "seconds": "ms"}), "always means 's'"),
        (Broken(resources=("seconds",)), "give the unit of each resource"),
    ],
)
def test_each_fault_is_caught(broken, message):
    with pytest.raises(CostModelError, match=message):
        check_cost_model(broken, SPACE, SCENARIO)


def test_a_model_in_which_nothing_costs_anything_is_caught():
    class Free:
        resources = {"cycles": "cycles"}  # noqa: RUF012

        def block_cost(self, layer, block, scenario):
            return {"cycles": 0.0}

        def fixed_cost(self, shape, scenario):
            return {"cycles": 1.0}

    with pytest.raises(CostModelError, match="every block of layer 0 is free"):
        check_cost_model(Free(), SPACE)


def test_measured_times_may_fall_a_little_within_the_tolerance():
    noisy = measured()
    noisy.seconds["none+gated128"] = {"prefill": 2.1, "decode": 0.525}
    with pytest.raises(CostModelError, match="give a tolerance"):
        check_cost_model(noisy, SPACE, SCENARIO)
    check_cost_model(noisy, SPACE, SCENARIO, tolerance=0.1)


def test_blocks_that_cannot_run_pass():
    def change(block, cost):
        return {"flops": float("inf")} if block.attention.kv_heads == 2 else {}

    check_cost_model(Broken(change), SPACE, SCENARIO)


def test_the_example_of_an_own_cost_model_meets_its_own_limits():
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "edge_cost.py"))
    layout = example["main"]()
    scenario, parent = Scenario(batch=1), type(layout).parent(layout.shape)

    def cycles(layout):
        costs = example["EdgeCost"](layout.shape)
        blocks = sum(costs.block_cost(0, b, scenario)["cycles"] for b in layout.blocks)
        return blocks + costs.fixed_cost(layout.shape, scenario)["cycles"]

    assert 0.75 * cycles(parent) < cycles(layout) <= 0.8 * cycles(parent)
