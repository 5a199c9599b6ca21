"""Claims about profiles of several kinds of devices, and of several files as one."""

import json

import pytest

from puzzle.cli.entry import main
from puzzle.costs.device_profiles import profile_devices
from puzzle.costs.measured.sublayers import MeasuredCosts
from puzzle.costs.profile import Profile
from puzzle.costs.roofline import Roofline
from puzzle.errors import CostModelError, SettingError
from puzzle.executors.executor import InProcess
from puzzle.hardware.identity import device_record
from puzzle.models.child_config import shape_of
from puzzle.stages import Run
from search_space import SearchSpace
from tests.factories.parents import SCENARIO, opened, parent_model


class Counting(InProcess):
    """Runs jobs in this process, and notes for which kind of device they were."""

    def __init__(self):
        self.devices = []

    def submit(self, fn, *args):
        self.devices.append(args[0].stage.device)
        return super().submit(fn, *args)


def run_and_space(saved, tmp_path):
    workspace, parent, _, _ = opened(saved, tmp_path)
    space = SearchSpace.uniform(parent.shape, attentions=["none"], ffns=["gated32"])
    return Run(workspace=workspace, parent=parent), space


def test_each_kind_is_profiled_once_by_its_own_executor_as_the_device_measures(saved, tmp_path):
    run, space = run_and_space(saved, tmp_path)
    workers = {"small": Counting(), "large": Counting()}
    profiles = profile_devices(run, space, SCENARIO, workers)
    assert [(n, each.devices) for n, each in workers.items()] == [(n, [n]) for n in workers]
    measured = MeasuredCosts.measure(run.parent, space, SCENARIO, workspace=run.workspace)
    for profile in profiles.values():
        assert dict(profile.device) == device_record("cpu")
        for block in space.blocks(0):
            own = measured.block_cost(0, block, SCENARIO)
            assert profile.block_cost(0, block, SCENARIO) == own
    again = profile_devices(run, space, SCENARIO, workers)
    assert again == profiles
    assert [each.devices for each in workers.values()] == [["small"], ["large"]]


def test_kinds_without_executors_and_hardware_that_nobody_measures_are_refused(saved, tmp_path):
    run, space = run_and_space(saved, tmp_path)
    with pytest.raises(SettingError, match="no kinds of devices"):
        profile_devices(run, space, SCENARIO, {})
    with pytest.raises(CostModelError, match="'roofline:h200' is not measured"):
        profile_devices(run, space, SCENARIO, {"a": InProcess()}, hardware="roofline:h200")


@pytest.mark.slow
def test_one_command_gives_each_kind_of_worker_its_own_profile(
    saved, tmp_path, caplog, capsys, monkeypatch
):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    given = ["profile", str(saved), "--out", "run", "--save", "profiles", "--dtype", "float32"]
    given += ["--batch", "1", "--prompt-tokens", "4", "--generated-tokens", "2"]
    # A device with other threads is another device, whose times are not those of the first.
    kinds = ["one=processes:1", "two=slurm:cluster=local,threads=2,cpus_per_task=2"]
    assert main([*given, "--on", kinds[0], "--on", kinds[1]]) == 0
    files = [str(tmp_path / "profiles" / f"{name}.json") for name in ("one", "two")]
    assert [Profile.load(file).device["threads"] for file in files] == [1, 2]
    assert "several kinds" not in caplog.text
    capsys.readouterr()
    assert main(["profile", "--merge", files[0], "--merge", files[1]]) == 1
    assert "differ in device threads: 1 and 2" in capsys.readouterr().err


def test_the_command_merges_files_and_refuses_kinds_that_it_cannot_name(saved, tmp_path, capsys):
    costs = Roofline("h100-sxm", shape_of(parent_model().config))
    space = SearchSpace.preset(costs.shape, "small")
    own = Profile.take(costs, space, SCENARIO, device={"name": "h100"})
    file = str(own.save(tmp_path / "one.json"))
    merge = ["profile", "--merge", file, "--merge", file, "--save", str(tmp_path / "both.json")]
    assert main([*merge, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == own.to_dict()
    assert Profile.load(tmp_path / "both.json").to_dict() == own.to_dict()
    given = ["profile", str(saved), "--out", str(tmp_path / "run")]
    for wrong, message in (("cpu", "write NAME=EXECUTOR"), ("a/b=processes:1", "kind's name")):
        assert main([*given, "--on", wrong]) == 2
        assert message in capsys.readouterr().err
