"""Checkpoints of a distillation: safetensors and JSON, readable by any number of processes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.optimizers import Optimizers
from puzzle.distillation.parallel import Parallel
from puzzle.distillation.shard_files import read_shards, write_shards
from puzzle.errors import WorkspaceError
from puzzle.storage.disk import matching
from puzzle.storage.hashing import content_hash
from puzzle.storage.json_files import read_object
from puzzle.storage.tensor_files import save_tensors
from puzzle.storage.workspace import MANIFEST, Artifact, Workspace

logger = logging.getLogger(__name__)

KIND = "checkpoint"
FILE_BYTES = 4 * 2**30
# Copies are in plain memory, and are there when the call returns.
_COPIED = StagingOptions(
    use_pinned_memory=False,
    use_shared_memory=False,
    use_async_staging=False,
    use_non_blocking_copy=False,
)
STATE, STREAM, INDEX = "state.json", "stream.safetensors", "index.json"


class Checkpoints:
    """The checkpoints of one run in a workspace.

    Args:
        workspace: Where they are.
        run: All that the run's result depends on; checkpoints of other runs are ignored.
        parallel: The processes; the first one writes and reads, or all do where tensors are
            sharded.
        config: How many are kept, and whether steps go on while they are written.
    """

    def __init__(
        self,
        workspace: Workspace,
        run: Mapping[str, Any],
        parallel: Parallel,
        config: DistillConfig,
    ) -> None:
        self.workspace, self.parallel = workspace, parallel
        self.keep, self.run = config.keep_checkpoints, content_hash(run)
        aside = config.async_checkpoints
        self.group = parallel.group_aside() if aside else None
        self._thread = ThreadPoolExecutor(1, "checkpoint") if aside else None
        self._writing: Future[None] | None = None

    def artifact(self, step: int) -> Artifact:
        """Returns the artifact of a step, whether written or not."""
        return self.workspace.artifact(KIND, {"run": self.run, "step": step})

    def steps(self) -> list[int]:
        """Returns the steps with a checkpoint, newest first."""
        steps = []
        for manifest in matching(self.workspace.root, f"{KIND}/*/{MANIFEST}"):
            try:
                spec = read_object(manifest, "a manifest", error=WorkspaceError)["spec"]
                if spec["run"] != self.run:
                    continue
                step = int(spec["step"])
            except (WorkspaceError, ValueError, KeyError, TypeError):
                logger.warning("%s cannot be read and is skipped", manifest)
                continue
            # Of an altered step, the name of the directory is that of another checkpoint.
            if self.artifact(step).path == manifest.parent:
                steps.append(step)
            else:
                logger.warning("%s was altered and is skipped", manifest)
        return sorted(steps, reverse=True)

    def newest(self) -> Artifact | None:
        """Returns the newest sound checkpoint; damaged ones are reported and deleted.

        Every process has to call it; where tensors are sharded, each hashes a part of the files.

        Raises:
            WorkspaceError: A process does not see the run directory.
        """
        for step in self.parallel.share(self.steps() if self.parallel.first else None):
            artifact = self.artifact(step)
            if self._sound(artifact):
                return artifact
            if self.parallel.first:
                logger.warning(
                    "the checkpoint of step %d is damaged; the previous one is used", step
                )
                artifact.discard()
        return None

    def _sound(self, artifact: Artifact) -> bool:
        parallel = self.parallel
        if not parallel.sharded:
            return bool(parallel.share(parallel.first and artifact.sound()))
        seen = parallel.collect(artifact.path.exists())
        if not all(seen):
            raise WorkspaceError(
                f"process {seen.index(False)} does not see {artifact.path}: the run directory has "
                "to be on a disk that all machines see under one path"
            )
        return all(parallel.collect(artifact.sound((parallel.rank, parallel.size))))

    def save(
        self,
        step: int,
        parameters: Mapping[str, nn.Parameter],
        optimizer: Optimizers,
        values: Mapping[str, Any],
        stream: Mapping[str, torch.Tensor],
    ) -> Path:
        """Writes a checkpoint, or copies what a thread then writes; every process has to call this.

        One that is still being written is waited for first.

        Args:
            step: Number of steps completed.
            parameters: The trained parameters by name.
            optimizer: Their optimisers.
            values: JSON values.
            stream: Tensors of the data stream.

        Raises:
            WorkspaceError: The disk is full or cannot be written; older checkpoints are kept.
        """
        self.finish()
        tensors = _training_state(parameters, optimizer)
        artifact = self.artifact(step)
        if self.parallel.share(artifact.exists()):
            return artifact.path
        others: dict[str, Any] = {STATE: json.dumps(values), STREAM: stream}
        if self._thread is None:
            self._write(artifact, tensors, others)
            return artifact.path
        if self.parallel.sharded or self.parallel.first:
            detached = {name: tensor.detach() for name, tensor in tensors.items()}
            copied: Any = DefaultStager(_COPIED).stage({"state": detached, STREAM: dict(stream)})
            tensors, others[STREAM] = copied["state"], copied[STREAM]
        self._writing = self._thread.submit(self._write, artifact, tensors, others)
        return artifact.path

    def finish(self) -> None:
        """Waits for a checkpoint that is being written.

        Raises:
            WorkspaceError: It could not be written; older checkpoints are kept.
        """
        if (writing := self._writing) is not None:
            self._writing = None
            writing.result()

    def _write(
        self, artifact: Artifact, tensors: Mapping[str, torch.Tensor], others: Mapping[str, Any]
    ) -> None:
        hashes: dict[str, str] = {}
        if not self.parallel.first:
            self._write_part(None, tensors)
            return

        def build(directory: Path) -> None:
            hashes.update(self._write_part(directory, tensors))
            save_tensors(directory / STREAM, others[STREAM])
            (directory / STATE).write_text(others[STATE], encoding="utf-8")

        artifact.write(build, hashes=hashes)
        for old in self.steps()[self.keep :]:
            self.artifact(old).discard()
        logger.info("checkpoint of step %d: %s", artifact.spec["step"], artifact.path)

    def _write_part(
        self, directory: Path | None, tensors: Mapping[str, torch.Tensor]
    ) -> Mapping[str, str]:
        """Writes this process's part of a checkpoint: its shards, or of whole tensors all or none.

        Returns the hashes that are known by then; only the first process knows the directory.
        """
        if self.parallel.sharded:
            known = None if directory is None else str(directory)
            place = Path(self.parallel.share(known, self.group))
            return write_shards(place, tensors, self.parallel, FILE_BYTES, self.group)
        if directory is not None:
            _write_files(directory, self.parallel.gather(tensors))
        return {}

    def load(
        self,
        artifact: Artifact,
        parameters: Mapping[str, nn.Parameter],
        optimizer: Optimizers,
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Fills parameters and optimiser from a checkpoint and returns the rest of it.

        Args:
            artifact: The checkpoint.
            parameters: The trained parameters by name.
            optimizer: Their optimisers.
        """
        values: dict[str, Any] = {}
        stream: dict[str, torch.Tensor] = {}
        place: str | None = None
        if self.parallel.first:
            values, place = artifact.load_json(STATE), str(artifact.path)
            stream = artifact.load_tensors(STREAM)
        values, stream, place = self.parallel.share((values, stream, place))
        optimizer.start_state(values["step"], parameters, values.get("other_steps", {}))
        tensors, directory = _training_state(parameters, optimizer), Path(str(place))
        if self.parallel.share((directory / INDEX).is_file()):
            self._read_whole(directory, tensors)
        else:
            read_shards(directory, tensors, self.parallel)
        return values, stream

    def _read_whole(self, directory: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        """Fills tensors from files of whole ones, which only the first process reads."""
        index = read_object(directory / INDEX, "an index") if self.parallel.first else {}

        def read(name: str) -> torch.Tensor:
            with safe_open(directory / index[name], framework="pt") as file:
                return file.get_tensor(name)

        for name, tensor in tensors.items():
            self.parallel.fill(tensor, partial(read, name))


def _training_state(
    parameters: Mapping[str, nn.Parameter], optimizer: Optimizers
) -> dict[str, torch.Tensor]:
    tensors = {f"child/{name}": parameter for name, parameter in parameters.items()}
    return tensors | optimizer.moments(parameters)


def _write_files(directory: Path, tensors: Any) -> None:
    """Writes named tensors to files of a few gigabytes, holding one file's worth at a time."""
    index: dict[str, str] = {}
    held: dict[str, torch.Tensor] = {}
    number = 0

    def flush() -> None:
        nonlocal number
        name = f"training-{number:05d}.safetensors"
        save_tensors(directory / name, held)
        index.update(dict.fromkeys(held, name))
        held.clear()
        number += 1

    for name, tensor in tensors:
        if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > FILE_BYTES:
            flush()
        held[name] = tensor
    flush()
    (directory / INDEX).write_text(json.dumps(index), encoding="utf-8")
