"""Claims about the plan: its counts are those of the stages, and it grows as they do."""

from dataclasses import replace

import pytest
from safetensors.torch import load_file

from puzzle.choice.layout_choice import EFFORTS
from puzzle.errors import PuzzleError
from puzzle.hardware.rates import Rates
from puzzle.library.build import build_library
from puzzle.limits.scenario import Scenario, Workload
from puzzle.pipeline.planning import plan
from puzzle.pipeline.steps import Steps
from puzzle.text.windows import DataConfig
from search_space import ModelShape, SearchSpace
from tests.factories.parents import opened

RATES = Rates(model=1e11, fits=1e10, bandwidth=1e10)
WORKLOAD = Workload.of(Scenario(weight_dtype="float32"))


def steps_of(space):
    return Steps(space=space, workload=WORKLOAD)


def test_the_disk_of_a_library_is_the_bytes_of_its_tensors(saved, tmp_path):
    workspace, parent, _, cut = opened(saved, tmp_path)
    for preset in ("default", "small", "ffn"):
        space = SearchSpace.preset(parent.shape, preset)
        library = build_library(parent, space, cut, workspace=workspace)
        files = [load_file(a.path / "variants.safetensors") for a in library.layers]
        written = sum(tensor.nbytes for file in files for tensor in file.values())
        found = plan(steps_of(space), DataConfig(), names=("library",), rates=RATES)
        assert found.disk == written


def test_faster_machines_less_text_and_fewer_blocks_take_less_time(saved, tmp_path):
    _, parent, space, _ = opened(saved, tmp_path)
    data = DataConfig()
    base = plan(steps_of(space), data, rates=RATES)
    faster = plan(steps_of(space), data, rates=Rates(model=2e11, fits=2e10, bandwidth=2e10))
    less = plan(steps_of(space), replace(data, fit_tokens=8192), rates=RATES)
    small = SearchSpace.preset(parent.shape, "small")
    fewer = plan(steps_of(small), data, rates=RATES)
    for other in (faster, less, fewer):
        assert other.seconds < base.seconds
    assert faster.memory == pytest.approx(base.memory, rel=0.01)
    one = plan(steps_of(space), data, names=("library",), rates=RATES)
    (library,) = (step for step in base.steps if step.name == "library")
    assert one.steps[0].seconds == library.seconds


def test_measured_rates_are_plausible(saved, tmp_path):
    _, parent, _, _ = opened(saved, tmp_path)
    rates = Rates.measure(parent.shape, "float32")
    assert 1e7 < rates.fits < 1e15
    assert 1e7 < rates.bandwidth < 1e14


LARGE = ModelShape(
    layers=126, hidden=16384, heads=128, head_dim=128, kv_heads=8, ffn_width=53248, vocab=128256
)
TEXT = DataConfig(fit_tokens=65536, score_tokens=8192)


@pytest.mark.parametrize("effort", EFFORTS)
def test_the_memory_of_a_search_does_not_depend_on_depth(effort):
    plans = []
    for layers in (4, 126):
        shape = replace(LARGE, layers=layers)
        steps = Steps(
            space=SearchSpace.preset(shape, "default"),
            workload=Workload.of(Scenario()),
            hardware="roofline:h100-sxm",
            effort=EFFORTS[effort],
        )
        plans.append(plan(steps, TEXT, rates=RATES, device="cuda", room=80e9))
    shallow, deep = ({step.name: step.memory for step in each.steps} for each in plans)
    assert deep == pytest.approx(shallow, rel=1e-3)
    assert not plans[1].too_large


def test_stages_that_cannot_fit_are_refused_by_name_and_others_keep_to_what_there_is():
    space = SearchSpace.preset(LARGE, "default")
    steps = Steps(space=space, workload=Workload.of(Scenario()), hardware="cpu")
    small = plan(steps, TEXT, rates=RATES, device="cuda", room=24e9)
    names = {step.name for step in small.too_large}
    assert {"library", "healing"} <= names
    # Whole models do not fit either, and are then not timed.
    assert not {"costs", "correction", "measurement"} & names
    with pytest.raises(PuzzleError, match=r"'library' needs about \d+.* and cuda has 24.0 GB"):
        small.require_memory("cuda")
    assert not plan(steps, TEXT, rates=RATES, device="cuda", room=80e9).too_large
