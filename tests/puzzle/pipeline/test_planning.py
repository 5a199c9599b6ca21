"""Claims about the plan: its counts are those of the stages, and it grows as they do."""

from dataclasses import replace

import pytest
from safetensors.torch import load_file

import puzzle
from puzzle.choice.layout_choice import EFFORTS
from puzzle.errors import PuzzleError
from puzzle.hardware.rates import Rates
from puzzle.library.build import build_library
from puzzle.limits.scenario import Scenario, Workload
from puzzle.models import load_config, shape_of
from puzzle.models.parent import Parent
from puzzle.pipeline.fleet import Fleet
from puzzle.pipeline.planning import plan
from puzzle.pipeline.steps import Steps
from puzzle.text.windows import DataConfig
from search_space import ModelShape, SearchSpace
from tests.factories.parents import DATA, opened, text

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


def fleet_plan(words, storage="12GB/s", effort="default", shape=LARGE):
    steps = Steps(
        space=SearchSpace.preset(shape, "default"),
        workload=Workload.of(Scenario()),
        hardware="roofline:h100-sxm",
        effort=EFFORTS[effort],
    )
    return plan(steps, TEXT, fleet=Fleet.named(words, storage))


def test_more_devices_divide_the_work_of_layers_and_nothing_else():
    one, many, most = (fleet_plan(f"{count}xh100-sxm") for count in (1, 8, 10**4))
    assert one.seconds > many.seconds > most.seconds
    single, eight, all_ = ({e.name: e for e in each.steps} for each in (one, many, most))
    for name in ("opening", "healing", "quality"):
        assert single[name].seconds == eight[name].seconds
    # Layouts are measured by one device, after blocks are scored exactly by all.
    exact, shared = (
        each.seconds - each.alone - each.hashed / one.rates.hashing - each.reads / 12e9
        for each in (single["choice"], eight["choice"])
    )
    assert single["choice"].alone == eight["choice"].alone
    assert shared == pytest.approx(exact * 16 / 126)
    assert shared > 0
    # 126 layers on eight devices: sixteen rounds, and then reading, in either case.
    computed = single["library"].seconds - single["library"].reads / 12e9
    alone = single["library"].alone
    wanted = alone + (computed - alone) * 16 / 126 + eight["library"].reads / 12e9
    assert eight["library"].seconds == pytest.approx(wanted)
    # No more than one layer is built on one device.
    fewest = alone + (computed - alone) / 126 + all_["library"].reads / 12e9
    assert all_["library"].seconds == pytest.approx(fewest)


def test_a_slower_storage_takes_as_much_longer_as_there_is_to_read():
    fast, slow = fleet_plan("8xh100-sxm"), fleet_plan("8xh100-sxm", 1e9)
    assert slow.reads == fast.reads > 2 * fast.disk
    assert slow.seconds - fast.seconds == pytest.approx(fast.reads * (1 / 1e9 - 1 / 12e9))
    assert fleet_plan("h200").room > fleet_plan("h100-sxm").room == 80 * 2**30


@pytest.mark.parametrize(
    ("devices", "storage", "said"),
    [
        ("8 cards", None, "no device 'cards'|devices='8 cards'"),
        ("0xh100-sxm", None, "devices=0"),
        ("8xh1000", None, "did you mean"),
        ("h100-sxm", "fast", "storage='fast'; allowed: such as 12GB/s"),
        ("h100-sxm", 0, "storage=0"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused(devices, storage, said):
    with pytest.raises(PuzzleError, match=said):
        Fleet.named(devices, storage)


def test_the_parent_is_read_no_more_often_than_planned(saved, tmp_path, monkeypatch):
    read, own = [], Parent.layer_tensors

    def counted(parent, index):
        tensors = own(parent, index)
        read.append(sum(tensor.nbytes for tensor in tensors.values()))
        return tensors

    monkeypatch.setattr(Parent, "layer_tensors", counted)
    puzzle.search(
        saved,
        text(),
        constraints=["parameters <= 0.8x"],
        hardware="roofline:h100-sxm",
        data=DATA,
        precision="float32",
        out=tmp_path / "run",
    )
    steps = Steps(
        space=SearchSpace.preset(shape_of(load_config(saved)), "small"),
        workload=WORKLOAD,
        hardware="roofline:h100-sxm",
        effort=EFFORTS["default"],
    )
    planned = plan(steps, DATA, rates=RATES)
    # Opening reads files, and not through layers.
    once = planned.steps[0].reads
    assert 0.5 * planned.reads < sum(read) < planned.reads - once
