"""Stages: the steps of a search as frozen values, and the run that builds or reads their results.

A stage says what its result depends on, what building it takes, how it is built and how read.
`search()`, the stage commands of the command line, `--dry-run` and workers in other processes all
use the same values, so they cannot disagree.
"""

from __future__ import annotations

import gc
import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch

from puzzle.errors import DataError, WorkspaceError
from puzzle.estimates import Estimate, Sizes
from puzzle.executors.executor import Executor
from puzzle.executors.on_worker import worker_device
from puzzle.executors.settling import Built, Failed, Lost, portable, settle
from puzzle.executors.worker_checks import appears, device_kind, require_shared, require_versions
from puzzle.hardware.identity import require_device
from puzzle.hardware.torch_state import own_torch_state
from puzzle.models.parent import Parent, ParentRef
from puzzle.progress.bars import Count, Hidden, shown_by
from puzzle.storage.temporary_places import temporary_place
from puzzle.storage.versions import versions
from puzzle.storage.workspace import Artifact, Workspace
from puzzle.text.windows import Windows

T = TypeVar("T")
Made = TypeVar("Made")
# How many times a job is submitted before the run gives up on it: workers get killed.
SUBMISSIONS = 3
# Seconds within which a network file system shows every machine what another one has written.
VISIBLE = 60.0
logger = logging.getLogger(__name__)


class Stage(ABC, Generic[T]):
    """A step of a search; a frozen value.

    A stage without an artifact of its own, such as a whole library, is made of stages that have
    one.
    """

    @abstractmethod
    def result(self, run: Run) -> T:
        """Returns the result, built first if it is missing."""

    def estimate(self, sizes: Sizes) -> Estimate:
        """Returns what building it takes on this machine; by default nothing worth counting."""
        return Estimate(name=type(self).__name__, work="little", seconds=0.0, memory=0.0, disk=0.0)


class ArtifactStage(Stage[T]):
    """A stage whose result is one artifact of the workspace.

    Attributes:
        kind: The kind of its artifacts.
        format: Part of every artifact's name; raised when the same key gives another result.
        varies: Whether the result is of the device that builds it, so that several are expected.
    """

    kind: ClassVar[str]
    format: ClassVar[int]
    varies: ClassVar[bool] = False

    @abstractmethod
    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns all that the result depends on, as JSON values."""

    @abstractmethod
    def build(self, run: Run, directory: Path) -> None:
        """Writes the result's files into a directory."""

    @abstractmethod
    def load(self, run: Run, artifact: Artifact) -> T:
        """Returns the result from its artifact."""

    def result(self, run: Run) -> T:
        """Returns the result, built first if it is missing."""
        return self.load(run, run.build(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRef:
    """A run as a small value, from which a worker in another process opens it again.

    Args:
        root: The workspace's directory.
        parent: Where the parent is; it is neither hashed nor checked again.
        windows: The hash of each part of the text, under which the workspace keeps it.
        solver: As for the run.
        seed: As for the run.
    """

    root: str
    parent: ParentRef
    windows: tuple[tuple[str, str], ...]
    solver: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A stage to be built by a worker; a pickled value.

    Args:
        run: The run it belongs to.
        stage: The stage.
        beacon: A directory that a worker sees if it shares the run directory; empty for none.
        versions: Of the packages that results depend on, in the process that submits it.
    """

    run: RunRef
    stage: ArtifactStage[Any]
    beacon: str = ""
    versions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What all stages of one search share.

    Args:
        workspace: Where results are stored.
        parent: The parent, opened; it knows its device and the number format it works in.
        windows: The text, cut; None for stages that read none.
        executor: Where independent jobs run: anything with `submit(fn, *args) -> Future`; None
            for this process, one after the other.
        solver: As in `solvers.solve`.
        seed: Seed of the solver and of what is drawn.

    Example:
        >>> run = Run(workspace=workspace, parent=parent, windows=cut)  # doctest: +SKIP
        >>> library = run.get(BlockLibrary(space=space))  # doctest: +SKIP
    """

    workspace: Workspace
    parent: Parent
    windows: Windows | None = None
    executor: Executor | None = None
    solver: str = "highs"
    seed: int = 0
    _artifacts: dict[Hashable, Artifact] = field(default_factory=dict, init=False, repr=False)
    _memory: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def text(self) -> Windows:
        """The text.

        Raises:
            DataError: The run was opened without one.
        """
        if self.windows is None:
            raise DataError("this stage reads text, and the run has none; open the run with text")
        return self.windows

    @property
    def for_healing(self) -> Run:
        """The same run, whose fits also read the text that is for healing alone."""
        return replace(self, windows=self.text.for_healing)

    @own_torch_state()
    def get(self, stage: Stage[T]) -> T:
        """Returns a stage's result: what is stored, or what is built now."""
        return stage.result(self)

    def artifact(self, stage: ArtifactStage[Any]) -> Artifact:
        """Returns the artifact of a stage, which may or may not exist yet."""
        if stage not in self._artifacts:
            spec = {"format": stage.format, **stage.key(self)}
            self._artifacts[stage] = self.workspace.artifact(stage.kind, spec)
        return self._artifacts[stage]

    def build(self, stage: ArtifactStage[Any]) -> Artifact:
        """Returns the artifact of a stage, verified, or built in this process."""
        artifact = self.artifact(stage)
        return self.workspace.get_or_build(
            artifact.kind, artifact.spec, partial(self._write, stage)
        )

    def _write(self, stage: ArtifactStage[Any], directory: Path) -> None:
        stage.build(self, directory)
        # Before it is published: a parent that was replaced meanwhile must not leave an artifact
        # under the name of the one that was opened.
        self.parent.require_unchanged()

    def store(self, stage: ArtifactStage[Any], write: Callable[[Path], None]) -> None:
        """Publishes what a stage's `build` would have written and was made along the way.

        Args:
            stage: The stage.
            write: Writes the result's files into a directory.
        """
        self.parent.require_unchanged()
        artifact = self.artifact(stage)
        self.workspace.get_or_build(artifact.kind, artifact.spec, write)

    def build_all(
        self,
        stages: Sequence[ArtifactStage[Any]],
        *,
        unit: str,
        done: Callable[[ArtifactStage[Any]], None] | None = None,
    ) -> tuple[Artifact, ...]:
        """Returns the artifacts of stages that do not depend on each other, built by the executor.

        Args:
            stages: The stages.
            unit: What one of them is called beside the progress bar.
            done: Called after each stage that was built in this process.

        Raises:
            WorkspaceError: Workers were lost again and again.
        """
        missing = [stage for stage in stages if not self.artifact(stage).sound()]
        with Count(stages[0].kind if stages else "", unit, len(missing)) as bar:
            if self.executor is None:
                for stage in missing:
                    self.build(stage)
                    bar.update()
                    if done is not None:
                        done(stage)
            elif missing:
                self._submit(missing, self.executor, bar)
        return tuple(map(self.artifact, stages))

    def _submit(
        self, missing: Sequence[ArtifactStage[Any]], executor: Executor, bar: Count
    ) -> None:
        """Runs jobs on workers until every artifact exists, again if their workers are lost."""
        devices, reason = {device_kind(self.parent.device)}, ""
        varies = all(stage.varies for stage in missing)
        with temporary_place(self.workspace.root / "tmp") as beacon:
            for attempt in range(1, SUBMISSIONS + 1):
                # Whatever several workers of one machine had no memory for, one may have.
                size = 1 if attempt == SUBMISSIONS else len(missing)
                for start in range(0, len(missing), size):
                    group = missing[start : start + size]
                    lost = self._settle(group, executor, str(beacon), devices, bar)
                    reason = lost or reason
                missing = [stage for stage in missing if not self.artifact(stage).exists()]
                if not missing:
                    break
                logger.warning("%d jobs were lost (attempt %d): %s", len(missing), attempt, reason)
        if len(devices) > 1 and not varies:
            logger.warning(
                "layers were built on devices of several kinds (%s), whose results differ in their "
                "last bits",
                ", ".join(sorted(devices)),
            )
        if missing:
            raise WorkspaceError(
                f"{len(missing)} jobs of kind {missing[0].kind!r} were lost {SUBMISSIONS} times, "
                f"the last time one after the other: their workers ended without a result "
                f"({reason}). Check that workers have enough memory, run this version of puzzle "
                f"and write to {self.workspace.root}. Finished results are kept"
            )

    def _settle(
        self,
        stages: Sequence[ArtifactStage[Any]],
        executor: Executor,
        beacon: str,
        devices: set[str],
        bar: Count,
    ) -> str:
        """Submits jobs and waits until all have ended; returns why some were lost, if any was.

        What a builder raises would be raised again, and ends the run. A lost worker may be an
        accident, and so may be one whose machine had no memory left.
        """
        run, known, reason = self.ref(), tuple(versions().items()), ""
        futures = {
            stage: executor.submit(
                perform, Job(run=run, stage=stage, beacon=beacon, versions=known)
            )
            for stage in stages
        }
        endings = settle(
            futures,
            exists=lambda stage: self.artifact(stage).exists(),
            patience=getattr(executor, "patience", None),
        )
        for stage, ending in endings:
            if isinstance(ending, Failed):
                endings.close()
                raise ending.error
            if isinstance(ending, Lost):
                reason = ending.reason
                continue
            devices |= {ending.device} - {""}
            if ending.key == self.artifact(stage).key:
                appears(self.artifact(stage).exists, VISIBLE)
            bar.update()
        return reason

    def remember(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Returns what was made under a key before in this process, or makes it."""
        if key not in self._memory:
            self._memory[key] = make()
        made: Made = self._memory[key]
        return made

    def forget(self, key: Hashable) -> None:
        """Drops what `remember` keeps under a key."""
        self._memory.pop(key, None)

    def ref(self) -> RunRef:
        """Returns what a worker opens this run from; parent and text are stored if necessary."""
        windows = () if self.windows is None else self.windows.store(self.workspace)
        return RunRef(
            root=str(self.workspace.root),
            parent=self.parent.ref(self.workspace),
            windows=windows,
            solver=self.solver,
            seed=self.seed,
        )


@lru_cache(maxsize=1)
def _opened(ref: RunRef) -> Run:
    workspace = Workspace(ref.root)
    device = worker_device() or ref.parent.device
    require_device(device)
    return Run(
        workspace=workspace,
        parent=ref.parent.open(device=device),
        windows=Windows.stored(workspace, ref.windows) if ref.windows else None,
        solver=ref.solver,
        seed=ref.seed,
    )


@own_torch_state()
def execute(job: Job) -> str:
    """Builds a job's stage and returns its artifact's key; whoever submitted it shows progress."""
    with shown_by(Hidden()):
        return _opened(job.run).build(job.stage).key


def perform(job: Job) -> Built | Failed | Lost:
    """Builds a job's stage and says how that ended; what workers run."""
    try:
        require_versions(job.versions)
        if job.beacon:
            require_shared(job.beacon, root=job.run.root, parent=job.run.parent.directory)
        key = execute(job)
        return Built(key=key, device=device_kind(_opened(job.run).parent.device))
    except (MemoryError, torch.OutOfMemoryError) as error:
        reason = f"out of memory on {socket.gethostname()}: {error}"
    except Exception as error:  # noqa: BLE001 - a builder raises whatever it likes
        return Failed(error=portable(error))
    _opened.cache_clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Lost(reason=reason)
