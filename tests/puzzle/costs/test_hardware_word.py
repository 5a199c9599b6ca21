"""Claims about what the text of `hardware=` names."""

import json
import sys

import pytest

from puzzle.cli import main
from puzzle.costs.by_name import (
    cost_model,
    has_standard_resources,
    own_resources,
    timed_device,
    torch_device,
)
from puzzle.costs.calibrated.engines.command import Command
from puzzle.costs.hardware_word import HardwareWord
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from search_space import ModelShape
from tests.factories.parents import save_parent

SHAPE = ModelShape(layers=2, hidden=64, heads=4, head_dim=16, kv_heads=2, ffn_width=256, vocab=100)
OWN = """
from search_space import counting

class EdgeCost:
    resources = {"cycles": "cycles"}
    def __init__(self, shape, scale=1):
        self.shape, self.scale = shape, scale
    def block_cost(self, layer, block, scenario):
        return {"cycles": self.scale * counting.block_parameters(self.shape, block)}
    def fixed_cost(self, shape, scenario):
        return {"cycles": 7.0}

class Kept:
    Cost = EdgeCost

half_done = object()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    name = f"own_costs_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    (tmp_path / "fails_at_once.py").write_text("import no_such_thing")
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_class_by_name_costs_what_its_object_does(own):
    """It is looked for in the working directory, which is not left on Python's path."""
    path = list(sys.path)
    block, scenario = SHAPE.parent_blocks[0], Scenario()
    for word in (f"{own}:EdgeCost", f"{own}:Kept.Cost"):
        model = cost_model(word, shape=SHAPE, scenario=scenario, scale=3)
        given = cost_model(type(model)(SHAPE, 3), shape=SHAPE, scenario=scenario)
        assert model.block_cost(0, block, scenario) == given.block_cost(0, block, scenario)
        assert own_resources(word) == {"cycles": "cycles"}
        assert not has_standard_resources(word)
    assert sys.path == path


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("no_such_module:Cost", "no module 'no_such_module' in .* or among what is installed"),
        ("fails_at_once:Cost", "importing fails_at_once fails: No module named 'no_such_thing'"),
        ("{own}:EdgeCosts", "has no EdgeCosts; it has .*EdgeCost"),
        ("{own}:half_done", "is not a cost model: it has no resources, block_cost, fixed_cost"),
        ("cuda:first", "hardware='cuda:first'; allowed: "),
        ("gpu:0", "hardware='gpu:0'; allowed: "),
    ],
)
def test_what_cannot_be_imported_is_named(own, word, message):
    with pytest.raises(CostModelError, match=message):
        cost_model(word.format(own=own), shape=SHAPE, scenario=Scenario())


def test_a_class_that_wants_other_arguments_is_refused():
    class Costs:
        resources = {"cycles": "cycles"}  # noqa: RUF012
        block_cost = fixed_cost = None

    with pytest.raises(CostModelError, match=r"cannot be made .*: TypeError.*ModelShape"):
        cost_model(Costs, shape=SHAPE, scenario=Scenario())


def test_a_command_line_is_an_engine():
    word = HardwareWord.read("command:measure.sh {model} --batch {batch}")
    assert word.engine == Command(command="measure.sh {model} --batch {batch}")
    assert word.is_run_here


def test_the_command_line_takes_both(own, tmp_path, capsys):
    """A profile of one's own costs, and one measured by one's own program."""
    parent = save_parent(tmp_path / "parent")
    (tmp_path / "engine.py").write_text(
        "import json, sys, pathlib\n"
        "blocks = json.loads((pathlib.Path(sys.argv[1]) / 'layout.json').read_text())['blocks']\n"
        "print(json.dumps({'throughput': 1000.0 / sum(len(str(b)) for b in blocks)}))\n"
    )
    common = ["profile", str(parent), "--json", "--space", "small"]
    assert main([*common, "--out", "a", "--hardware", f"{own}:EdgeCost"]) == 0
    profile = json.loads(capsys.readouterr().out)
    assert profile["fixed"]["cycles"] == 7.0
    line = f"command:{sys.executable} engine.py {{model}}"
    assert main([*common, "--out", "b", "--hardware", line]) == 0
    assert json.loads(capsys.readouterr().out)["fixed"]["seconds"] >= 0


def test_settings_follow_rates_and_devices_and_nothing_else():
    spread = cost_model("roofline:h100-sxm,tensor_parallel=2", shape=SHAPE, scenario=Scenario())
    given = cost_model("roofline:h100-sxm", shape=SHAPE, scenario=Scenario(), tensor_parallel=2)
    own = SHAPE.parent_blocks[0]
    assert spread.block_cost(0, own, Scenario()) == given.block_cost(0, own, Scenario())
    word = HardwareWord.read("cuda:1,tensor_parallel=4,link=22.5")
    assert (word.kind, word.rest) == ("device", "cuda:1")
    assert word.options == {"tensor_parallel": 4, "link": 22.5e9}
    assert torch_device(word.text) == "cuda:1"
    assert timed_device(word.text) is None
    assert timed_device("cuda:1,tensor_parallel=1") == "cuda:1"
    for wrong in ("cpu,tensor_parallel", "cpu,devices=2", "cpu,link=1,link=2", "cpu,link=fast"):
        with pytest.raises(
            CostModelError, match=r"allowed after the device: tensor_parallel=\.\.\."
        ):
            HardwareWord.read(wrong)
    with pytest.raises(CostModelError, match=r"cache_dtype=\.\.\."):
        HardwareWord.read("roofline:h200,link=5")
