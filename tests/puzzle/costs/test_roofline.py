"""Claims about the roofline, against closed forms."""

import math

import pytest

from puzzle.costs.checked import layout_cost
from puzzle.costs.device_specs import SPECS, DeviceSpec, device_spec
from puzzle.costs.roofline import Efficiency, Roofline
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from search_space import Block, Layout, ModelShape, counting
from search_space.device_shares import device_share

SHAPE = ModelShape(
    layers=4, hidden=64, heads=8, head_dim=8, kv_heads=4, ffn_width=256, vocab=100, tied=True
)
IDEAL = Efficiency(compute=1.0, memory=1.0, link=1.0, launch=0.0, synchronise=0.0)
# So slow at one thing that everything else is free.
SLOW = dict(memory=math.inf, link=1e6, source="made up")
COMPUTER = DeviceSpec(
    name="c", flops={"float32": 1.0, "bfloat16": 1.0, "fp8": 2.0}, bandwidth=1e30, **SLOW
)
MOVER = DeviceSpec(name="m", flops={"bfloat16": 1e30}, bandwidth=1.0, **SLOW)
SCENARIO = Scenario(batch=3, prompt_tokens=7, generated_tokens=5)
LABELS = [
    "gqa4+gated256", "gqa2+none", "gqa1h2+none", "gqa4w5+gated64", "gqa3h6w9+linear",
    "linear+linear", "none+gated64", "none+none",
]  # fmt: skip


def model(spec, **options):
    return Roofline(spec, SHAPE, **{"efficiency": IDEAL, **options})


@pytest.mark.parametrize("label", LABELS)
def test_where_only_computing_takes_time_seconds_are_operations_over_the_rate(label):
    cost = model(COMPUTER).block_cost(0, Block.from_label(label), SCENARIO)
    assert cost["seconds"] == pytest.approx(cost["flops"])


def test_where_only_moving_takes_time_a_decode_step_reads_weights_and_cache_once():
    block = Block.from_label("gqa2+gated256")
    cost = model(MOVER).block_cost(0, block, SCENARIO)
    weights = 2 * counting.block_parameters(SHAPE, block)
    per_token = counting.block_kv_bytes_per_token(SHAPE, block)
    read = sum(3 * per_token * (7 + step) for step in range(1, 6))
    residual = 2 * 2 * 3 * SHAPE.hidden * 2  # in and out of both sublayers, in 16 bits
    assert cost["decode_seconds"] == pytest.approx(5 * (weights + residual) + read)


@pytest.mark.parametrize("label", ["gqa4+gated256", "gqa4w9+gated256", "gqa2h4w3+none"])
def test_decode_equals_the_sum_over_steps_with_a_growing_cache(label):
    spec = DeviceSpec(name="d", flops={"bfloat16": 1e9}, bandwidth=3e7, **SLOW)
    costs, block = model(spec), Block.from_label(label)
    one = Scenario(batch=3, prompt_tokens=7, generated_tokens=5)
    steps = 0.0
    for step in range(5):
        single = Scenario(batch=3, prompt_tokens=7 + step, generated_tokens=1)
        steps += costs.block_cost(0, block, single)["decode_seconds"]
    assert costs.block_cost(0, block, one)["decode_seconds"] == pytest.approx(steps)


def test_every_product_takes_the_longer_of_computing_and_moving():
    spec = DeviceSpec(name="d", flops={"bfloat16": 1e9}, bandwidth=1e8, **SLOW)
    for label in LABELS:
        block = Block.from_label(label)
        both = model(spec).block_cost(0, block, SCENARIO)["seconds"]
        fast = DeviceSpec(name="c", flops={"bfloat16": 1e9}, bandwidth=1e30, **SLOW)
        slow = DeviceSpec(name="m", flops={"bfloat16": 1e30}, bandwidth=1e8, **SLOW)
        parts = [model(s).block_cost(0, block, SCENARIO)["seconds"] for s in (fast, slow)]
        assert max(parts) <= both * (1 + 1e-12)
        assert both <= sum(parts) * (1 + 1e-12)


def test_efficiencies_divide_the_rates():
    half = Efficiency(compute=0.5, memory=0.25, link=1.0, launch=0.0, synchronise=0.0)
    for spec, factor in ((COMPUTER, 2), (MOVER, 4)):
        ideal, real = (
            model(spec, efficiency=e).block_cost(0, SHAPE.parent_blocks[0], SCENARIO)["seconds"]
            for e in (IDEAL, half)
        )
        assert real == pytest.approx(factor * ideal)


def test_each_sublayer_is_launched_once_in_each_pass():
    late = Efficiency(compute=1.0, memory=1.0, link=1.0, launch=1.0, synchronise=0.0)
    spec = DeviceSpec(name="f", flops={"bfloat16": 1e30}, bandwidth=1e30, **SLOW)
    for label, sublayers in (("gqa4+gated256", 2), ("none+linear", 1), ("none+none", 0)):
        cost = model(spec, efficiency=late).block_cost(0, Block.from_label(label), SCENARIO)
        assert cost["prefill_seconds"] == pytest.approx(sublayers)
        assert cost["decode_seconds"] == pytest.approx(5 * sublayers)


def test_devices_share_the_work_and_add_a_ring_all_reduce_of_each_output():
    spec = DeviceSpec(
        name="f", flops={"bfloat16": 1e30}, bandwidth=1e30, memory=1e9, link=10.0, source="made up"
    )
    cost = model(spec, tensor_parallel=4).block_cost(0, SHAPE.parent_blocks[0], SCENARIO)
    outputs = 2 * 2 * 3 * 64 * (7 + 5)  # two sublayers, 16 bits, all tokens
    assert cost["seconds"] == pytest.approx(2 * 3 / 4 * outputs / 10.0)
    for label in LABELS:
        block = Block.from_label(label)
        alone, shared = (model(COMPUTER, tensor_parallel=n).block_cost(0, block, SCENARIO)
                         for n in (1, 2))  # fmt: skip
        assert shared["parameters"] == alone["parameters"]
        assert shared["flops"] == alone["flops"]
        if (share := device_share(SHAPE, block, 2)) is None:  # three KV heads
            assert shared["seconds"] == math.inf
            continue
        divided = sum(p.kind not in ("none", "linear") for p in (block.attention, block.ffn))
        sent = divided * 2 * 3 * 64 * 12 / 1e6
        own = model(COMPUTER).block_cost(0, share, SCENARIO)["seconds"]
        assert shared["seconds"] - sent == pytest.approx(own)
        if divided and block.attention.kv_heads != 1 and block.ffn.kind != "linear":
            assert own == pytest.approx(alone["seconds"] / 2)


def test_a_device_holds_its_share_of_the_memory_but_never_less_than_one_kv_head():
    block = Block.from_label("gqa4+gated256")
    caches = [
        model(COMPUTER, tensor_parallel=n).block_cost(0, block, SCENARIO)["kv_cache"]
        for n in (1, 2, 4, 8)
    ]
    assert caches == [caches[0], caches[0] / 2, caches[0] / 4, caches[0] / 4]
    whole = model(COMPUTER).block_cost(0, block, SCENARIO)
    for devices in (2, 4, 8):
        part = model(COMPUTER, tensor_parallel=devices).block_cost(0, block, SCENARIO)
        # Two norms are on every device, in 16 bits, and so is a KV head where they are too few.
        norms, heads = 2 * 2 * SHAPE.hidden, max(4 / devices, 1) - 4 / devices
        repeated = (devices - 1) / devices * norms + heads * 2 * (2 * SHAPE.head_dim * SHAPE.hidden)
        weights = (whole["memory"] - whole["kv_cache"]) / devices
        assert part["memory"] == pytest.approx(weights + repeated + part["kv_cache"])


def test_number_formats_change_bytes_and_rates():
    block = SHAPE.parent_blocks[0]
    weights = counting.block_parameters(SHAPE, block)

    def cost(spec, **options):
        return model(spec, **options).block_cost(0, block, SCENARIO)

    plain, small = cost(MOVER), cost(MOVER, weight_dtype="fp8", cache_dtype="fp8")
    assert plain["memory"] - plain["kv_cache"] == 2 * weights
    assert small["memory"] - small["kv_cache"] == weights
    assert small["kv_cache"] == plain["kv_cache"] / 2
    packed = cost(MOVER, weight_dtype="int4")
    assert packed["memory"] - packed["kv_cache"] == weights * (4 + 16 / 128) / 8
    # fp8 speeds up the products with weights, not those with the cache; int4 computes in 16 bits.
    pairs = 4 * 64 * SCENARIO.attended_pairs
    assert cost(COMPUTER, weight_dtype="fp8")["seconds"] == pytest.approx(
        (plain["flops"] - pairs) / 2 + pairs
    )
    assert cost(COMPUTER, weight_dtype="int4")["seconds"] == pytest.approx(plain["flops"])


def test_a_layout_has_all_its_parameters_bytes_and_operations():
    layout = Layout.parent(SHAPE)
    total = layout_cost(model("h100-sxm"), layout, SCENARIO)
    assert total["parameters"] == layout.parameters()
    assert total["kv_cache"] == SCENARIO.total_tokens * layout.kv_bytes_per_token()
    assert total["memory"] == 2 * layout.parameters() + total["kv_cache"]
    assert total["peak_memory"] > total["memory"]
    assert total["seconds"] == pytest.approx(total["prefill_seconds"] + total["decode_seconds"])


def test_the_head_is_read_in_every_step():
    cost = model(MOVER).fixed_cost(SHAPE, SCENARIO)
    assert cost["decode_seconds"] == 5 * 2 * SHAPE.vocab * SHAPE.hidden


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_parallel": 3}, r"heads and channels are divided evenly: \[1, 2, 4, 8\]"),
        ({"tensor_parallel": 0}, "tensor_parallel=0"),
        ({"weight_dtype": "fp4"}, "weight_dtype='fp4'; allowed: None .*int4"),
        ({"cache_dtype": "int4"}, "cache_dtype='int4'; allowed"),
    ],
)
def test_unknown_options_are_answered_with_what_is_allowed(options, message):
    with pytest.raises(CostModelError, match=message):
        model("h100-sxm", **options)


def test_devices_without_a_link_cannot_share_layers():
    with pytest.raises(CostModelError, match="'apple-m1' has no link"):
        model("apple-m1", tensor_parallel=2)


def test_unknown_devices_are_answered_with_near_ones():
    with pytest.raises(CostModelError, match=r"did you mean .*'h100-sxm' or 'h100-pcie'"):
        device_spec("H100")
    assert device_spec("H100-SXM") is SPECS["h100-sxm"]


@pytest.mark.parametrize("bad", [{"compute": 0.0}, {"memory": 1.2}, {"launch": -1.0}])
def test_efficiencies_are_shares(bad):
    with pytest.raises(CostModelError, match=next(iter(bad))):
        Efficiency(**bad)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_table_is_dense_sourced_and_of_the_right_order(spec):
    assert len(spec.source) > 10
    assert spec.flops.get("float32", 0) <= spec.flops["bfloat16"]
    assert spec.flops["bfloat16"] <= spec.flops.get("int8", math.inf)
    # From a laptop to a B200: a misplaced factor of 1000 falls outside.
    assert 1e12 < spec.flops["bfloat16"] < 3e15
    assert 5e10 < spec.bandwidth < 1e13
    assert spec.memory >= 2**34


def test_a_spec_with_a_wrong_figure_is_refused():
    with pytest.raises(CostModelError, match=r"bandwidth is 0\.0"):
        DeviceSpec(name="x", flops={"bfloat16": 1.0}, memory=1.0, bandwidth=0.0, source="none")
    with pytest.raises(CostModelError, match=r"flops has \['fp9'\]"):
        DeviceSpec(name="x", flops={"fp9": 1.0}, memory=1.0, bandwidth=1.0, source="none")
