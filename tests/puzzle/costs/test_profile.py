import json
import math
import warnings
from dataclasses import replace

import pytest

from puzzle.costs.checked import layout_cost
from puzzle.costs.merged_profiles import merge_profiles
from puzzle.costs.profile import Profile
from puzzle.costs.roofline import Roofline
from puzzle.errors import CostModelError
from puzzle.hardware.identity import device_record, software_versions
from puzzle.limits.scenario import Scenario
from puzzle.testing import check_cost_model
from search_space import Block, Layout, ModelShape, SearchSpace

SHAPE = ModelShape(
    layers=4, hidden=64, heads=4, head_dim=16, kv_heads=2, ffn_width=256, vocab=100, tied=False
)
SPACE = SearchSpace.uniform(SHAPE, attentions=["none"], ffns=["gated128", "none"], keep=[0])
SCENARIO = Scenario(batch=2, prompt_tokens=8, generated_tokens=4)
DEVICE = {"name": "H100", "memory": 80}


class Uneven(Roofline):
    """Layer 2 cannot have attention, layer 3 is slower."""

    def block_cost(self, layer, block, scenario):
        cost = super().block_cost(layer, block, scenario)
        if layer == 2 and block.attention.kv_heads:
            cost["memory"] = cost["peak_memory"] = math.inf
        if layer == 3:
            cost = {name: 2 * value if "seconds" in name else value for name, value in cost.items()}
        return cost


COSTS = Uneven("h100-sxm", SHAPE)


def profile(**changes):
    given = {"device": DEVICE, "versions": {"torch": "2.13.0"}, **changes}
    return Profile.take(COSTS, SPACE, SCENARIO, **given)


def test_a_profile_costs_what_the_model_it_was_taken_of_costs_also_after_a_file(tmp_path):
    taken = profile()
    for found in (taken, Profile.load(taken.save(tmp_path / "h100.json"))):
        for layer in range(4):
            for block in SPACE.blocks(layer):
                assert found.block_cost(layer, block, SCENARIO) == COSTS.block_cost(
                    layer, block, SCENARIO
                )
        assert found.fixed_cost(SHAPE, SCENARIO) == COSTS.fixed_cost(SHAPE, SCENARIO)
        check_cost_model(found, SPACE, SCENARIO)
        layout = Layout(SHAPE, tuple(SPACE.blocks(i)[-1] for i in range(4)))
        assert layout_cost(found, layout, SCENARIO) == layout_cost(COSTS, layout, SCENARIO)
    assert len(taken.rows) == 4  # layer 0 is kept, layers 2 and 3 differ
    assert json.loads((tmp_path / "h100.json").read_text())["device"] == DEVICE


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"device": {"name": "A100", "memory": 80}}, "device name: 'H100' in .*, 'A100' here"),
        ({"device": {"name": "H100"}}, "device memory: 80 in the profile, None here"),
        ({"versions": {"torch": "2.14.0"}}, r"versions torch: '2.13.0' in .*, '2.14.0' here"),
        ({"scenario": Scenario(batch=3)}, "scenario batch: 2 in the profile, 3 here"),
        (
            {"shape": ModelShape(**{**SHAPE.to_dict(), "hidden": 128})},
            "shape hidden: 64 in the profile, 128 here",
        ),
    ],
)
def test_a_profile_of_something_else_is_refused_with_the_difference(tmp_path, asked, message):
    path = profile().save(tmp_path / "p.json")
    with pytest.raises(CostModelError, match=message):
        Profile.load(path, **asked)
    Profile.load(path, device=DEVICE, versions={"torch": "2.13.0"}, scenario=SCENARIO, shape=SHAPE)


def test_another_scenario_or_block_is_refused_when_asked_for():
    with pytest.raises(CostModelError, match=r"scenario generated_tokens: 4 in .*, 9 here"):
        profile().block_cost(
            0, SHAPE.parent_blocks[0], Scenario(batch=2, prompt_tokens=8, generated_tokens=9)
        )
    with pytest.raises(CostModelError, match=r"no block none\+gated512 in layer 1"):
        profile().block_cost(1, Block.from_label("none+gated512"), SCENARIO)
    wide = Block.from_label("none+gated512")
    assert profile(extra=[wide]).block_cost(1, wide, SCENARIO) == COSTS.block_cost(
        1, wide, SCENARIO
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"H100"', '"H200"'), "was altered or truncated"),
        (lambda text: text[: len(text) // 2], "is not a profile"),
        (lambda text: "[]", "is not a profile"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "has format 9; this version"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, damage, message):
    path = profile().save(tmp_path / "p.json")
    path.write_text(damage(path.read_text()))
    with pytest.raises(CostModelError, match=message):
        Profile.load(path)
    with pytest.raises(CostModelError, match="cannot be read"):
        Profile.load(tmp_path / "absent.json")


def test_the_record_of_this_machine_can_be_stored_and_is_the_same_twice(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken = profile(device=device_record("cpu"), versions=software_versions())
    path = taken.save(tmp_path / "p.json")
    Profile.load(path, device=device_record("cpu"), versions=software_versions())
    assert "torch" in taken.versions


def part(attentions, **changes):
    space = SearchSpace.uniform(SHAPE, attentions=attentions, ffns=["gated128"])
    return Profile.take(
        COSTS, space, SCENARIO, **{"device": DEVICE, "versions": {"torch": "2"}, **changes}
    )


def test_merged_profiles_cost_what_each_does_in_any_order(tmp_path):
    parts = [part(["none"]), part(["gqa1"]), part(["linear"])]
    one, other = merge_profiles(parts), merge_profiles(parts[::-1])
    for layer in range(4):
        assert {*one.rows[one.layers[layer]]} == {*other.rows[other.layers[layer]]}
        for each in parts:
            for label in each.rows[each.layers[layer]]:
                block = Block.from_label(label)
                cost = each.block_cost(layer, block, SCENARIO)
                assert one.block_cost(layer, block, SCENARIO) == cost
                assert other.block_cost(layer, block, SCENARIO) == cost
    assert merge_profiles([one, one]) == one
    check_cost_model(Profile.load(one.save(tmp_path / "m.json")), SPACE_OF_BOTH, SCENARIO)


SPACE_OF_BOTH = SearchSpace.uniform(SHAPE, attentions=["gqa1", "linear"], ffns=["gated128"])


def slower(profile, factor):
    """The same profile, measured in a slow spell."""
    times = {name for name in profile.resources if "seconds" in name}
    rows = [
        {b: {n: v * (factor if n in times else 1) for n, v in c.items()} for b, c in row.items()}
        for row in profile.rows
    ]
    return replace(profile, rows=tuple(rows))


def test_a_block_that_several_have_gets_the_median_and_a_warning_where_they_are_apart(caplog):
    own = part(["none"])
    assert merge_profiles([own, slower(own, 1.08), slower(own, 1.04)]) == slower(own, 1.04)
    assert not caplog.text
    merged = merge_profiles([slower(own, 3), own, slower(own, 1.04)])
    assert merged == slower(own, 1.04)
    blocks = sum(len(own.rows[at]) for at in own.layers)
    assert f"{blocks} blocks of layers cost more than 10 % more" in caplog.text
    assert "up to 200 %; the medians" in caplog.text


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (part(["none"], device={"name": "A100", "memory": 80}), "device name: 'H100' and 'A100'"),
        (part(["none"], versions={"torch": "3"}), "versions torch: '2' and '3'"),
        (
            replace(
                part(["none"]), scenario=Scenario(batch=3, prompt_tokens=8, generated_tokens=4)
            ),
            "scenario batch: 2 and 3",
        ),
        (
            replace(part(["none"]), shape=ModelShape(**{**SHAPE.to_dict(), "hidden": 128})),
            "shape hidden: 64 and 128",
        ),
        (replace(part(["none"]), resources={"seconds": "s"}), "resource memory: 'bytes' and None"),
        (
            replace(part(["none"]), fixed={**part(["none"]).fixed, "parameters": 1.0}),
            "parameters of the fixed cost is 12864 in one and 1 in another; it is counted",
        ),
    ],
)
def test_profiles_of_different_things_are_not_merged_and_the_difference_is_named(other, message):
    with pytest.raises(CostModelError, match=message):
        merge_profiles([part(["none"]), other])
