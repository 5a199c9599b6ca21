"""Profiles of several kinds of devices, each taken by a worker that has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from puzzle.costs.by_name import HardwareCosts, hardware_record, is_run_here, torch_device
from puzzle.costs.profile import Profile
from puzzle.costs.served import served_format
from puzzle.errors import CostModelError
from puzzle.executors.by_kind import ByKind
from puzzle.executors.executor import Executor
from puzzle.hardware.identity import software_versions
from puzzle.limits.scenario import Scenario
from puzzle.models.child_config import config_from_layout
from puzzle.stages import ArtifactStage, Run
from puzzle.storage.workspace import Artifact
from search_space import Layout, SearchSpace

__all__ = ["DeviceProfile", "profile_devices"]

FILE = "profile.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile(ArtifactStage[Profile]):
    """The profile of a space on the device of whichever worker takes it.

    Args:
        device: What the kind of device is called here, and by the executor that has workers of it.
        space: The blocks to include.
        scenario: The scenario; "auto" is what that device computes fast.
        hardware: What is run on the worker, an engine or a command; None for its torch device.
    """

    kind: ClassVar[str] = "device-profile"
    format: ClassVar[int] = 1
    varies: ClassVar[bool] = True
    device: str
    space: SearchSpace
    scenario: Scenario
    hardware: str | None = None

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the costs depend on, but for what the device turns out to be."""
        layers = range(self.space.shape.layers)
        versions = software_versions()
        # Nothing depends on a patch of Python, which workers may have another of.
        versions.pop("python")
        own = Layout.parent(run.parent.shape)
        return {
            "device": self.device,
            "hardware": self.hardware,
            "versions": versions,
            "scenario": self.scenario.to_dict(),
            "config": config_from_layout(run.parent.config, own).to_json_string(),
            "blocks": [[block.label for block in self.space.blocks(each)] for each in layers],
        }

    def build(self, run: Run, directory: Path) -> None:
        """Measures on the device of this process."""
        word = self.hardware or str(run.parent.device)
        scenario = self.scenario.served_in(served_format(word, workspace=run.workspace).name)
        costs = run.get(HardwareCosts(hardware=word, space=self.space, scenario=scenario))
        profile = Profile.take(
            costs,
            self.space,
            scenario,
            device=hardware_record(word, torch_device(word) or str(run.parent.device)),
            versions=software_versions(),
        )
        profile.save(directory / FILE)

    def load(self, run: Run, artifact: Artifact) -> Profile:
        """Returns the profile."""
        return Profile.load(artifact.path / FILE)


def profile_devices(
    run: Run,
    space: SearchSpace,
    scenario: Scenario,
    executors: Mapping[str, Executor],
    *,
    hardware: str | None = None,
) -> dict[str, Profile]:
    """Takes a profile on each of several kinds of devices, all at the same time.

    What is taken is kept in the run's workspace under the kind's name, and not taken again.

    Args:
        run: The run, in a directory that all workers see.
        space: The blocks to include.
        scenario: The scenario; "auto" is what each device computes fast.
        executors: By the name of a kind of device: an executor whose workers have one.
        hardware: An engine or command to run on each; by default torch on the worker's device.

    Raises:
        SettingError: There are no executors.
        CostModelError: The hardware is nothing that a worker could measure.
        WorkspaceError: Workers were lost again and again, or do not see the run directory.

    Example:
        >>> with Slurm(slurm_constraint="h100", gpus=1) as hopper:  # doctest: +SKIP
        ...     with Slurm(slurm_constraint="l40s", gpus=1) as ada:
        ...         profiles = profile_devices(run, space, scenario, {"h100": hopper, "l40s": ada})
    """
    if hardware is not None and not is_run_here(hardware):
        raise CostModelError(
            f"hardware={hardware!r} is not measured, and costs the same from everywhere; leave it "
            "out for torch on each worker's device, or give an engine or a command"
        )
    everywhere = replace(run, executor=ByKind(executors))
    stages = {
        name: DeviceProfile(device=name, space=space, scenario=scenario, hardware=hardware)
        for name in executors
    }
    everywhere.build_all(list(stages.values()), unit="device")
    return {name: everywhere.get(stage) for name, stage in stages.items()}
