from typing import ClassVar

import pytest

from puzzle.costs.by_name import cost_model, own_resources, require_hardware
from puzzle.costs.cost_table import Table
from puzzle.costs.profile import Profile
from puzzle.costs.roofline import Roofline
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from search_space import ModelShape, SearchSpace

SHAPE = ModelShape(layers=2, hidden=64, heads=4, head_dim=16, kv_heads=2, ffn_width=256, vocab=100)
SCENARIO = Scenario(batch=2, prompt_tokens=8, generated_tokens=4)


def choose(hardware, **options):
    return cost_model(hardware, shape=SHAPE, scenario=SCENARIO, **options)


def test_words_and_paths_stand_for_cost_models(tmp_path):
    roofline = choose("roofline:h100-sxm", tensor_parallel=2, weight_dtype="fp8")
    assert (roofline.spec.name, roofline.devices, roofline.weight_dtype) == ("h100-sxm", 2, "fp8")
    assert choose(roofline) is roofline
    (tmp_path / "costs.csv").write_text("block,seconds\ngqa2+gated256,1\n")
    assert isinstance(choose(f"table:{tmp_path / 'costs.csv'}"), Table)
    space = SearchSpace.preset(SHAPE, "small")
    taken = Profile.take(roofline, space, SCENARIO, device={"name": "H100"})
    path = taken.save(tmp_path / "h100.json")
    for name in (path, str(path)):
        assert choose(name).block_cost(0, SHAPE.parent_blocks[0], SCENARIO) == roofline.block_cost(
            0, SHAPE.parent_blocks[0], SCENARIO
        )


def test_the_units_that_a_user_states_are_known_before_a_parent_is_opened(tmp_path):
    class Own:
        resources: ClassVar = {"cycles": "cycles"}
        block_cost = fixed_cost = None

    class Broken(Own):
        @property
        def resources(self):
            raise RuntimeError("no table")

    table = tmp_path / "costs.csv"
    table.write_text("block,seconds,cycles [Mcycles]\nfixed,1,2\n")
    taken = Profile.take(
        Roofline("h100-sxm", SHAPE), SearchSpace.preset(SHAPE, "small"), SCENARIO, device={}
    )
    assert own_resources(f"table:{table}") == {"seconds": "s", "cycles": "Mcycles"}
    assert own_resources(taken.save(tmp_path / "p.json")) == taken.resources
    assert own_resources(Own) == own_resources(Own()) == Own.resources
    assert own_resources("cpu") is own_resources(Broken) is None
    for read in (own_resources, require_hardware):
        with pytest.raises(
            CostModelError, match=r"^Broken.resources raises RuntimeError: no table"
        ):
            read(Broken())


def test_a_profile_of_another_scenario_is_refused(tmp_path):
    space = SearchSpace.preset(SHAPE, "small")
    costs = Roofline("h100-sxm", SHAPE)
    path = Profile.take(costs, space, Scenario(), device={}).save(tmp_path / "p.json")
    with pytest.raises(CostModelError, match="scenario batch: 8 in the profile, 2 here"):
        choose(path)


@pytest.mark.parametrize(
    ("hardware", "message"),
    [
        ("h100", "hardware='h100'; allowed: 'cpu' or 'cuda'.*roofline:h100-sxm.*'llama.cpp'"),
        ("roofline", "allowed: "),
        ("roofline:h999", "no device 'h999' in the table"),
        ("cpu", "hardware='cpu' runs models; give parent, space and workspace"),
        ("cuda:1", "give parent, space and workspace"),
        ("llama.cpp", "give parent, space and workspace"),
        (object(), "is not a cost model: it has no resources, block_cost, fixed_cost"),
    ],
)
def test_anything_else_is_answered_with_what_is_allowed(hardware, message):
    with pytest.raises(CostModelError, match=message):
        choose(hardware)
