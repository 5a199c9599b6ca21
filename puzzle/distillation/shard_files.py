"""Safetensors files to which every process writes its own part of tensors.

Of torch's distributed checkpoint only the storage of safetensors is used: where a part belongs is
in the header of its file, and there is no other metadata, which torch would pickle.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.distributed import ProcessGroup, checkpoint
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from puzzle.distillation.parallel import Parallel
from puzzle.errors import WorkspaceError
from puzzle.storage.hashing import hash_file

PREFIX = "shard-"


def write_shards(
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    parallel: Parallel,
    file_bytes: int,
    group: ProcessGroup | None = None,
) -> dict[str, str]:
    """Writes tensors, each process its part of them, and returns the hashes of all files by name.

    Every process has to call it, and hashes what it wrote.

    Args:
        directory: An empty directory that all processes see.
        tensors: The tensors by name.
        parallel: The processes.
        file_bytes: How large a file may become; a process has one in memory while it writes.
        group: The group in which they exchange what they wrote.

    Raises:
        WorkspaceError: A process could not write, or writes to a disk that the first does not see.
    """
    writer = HuggingFaceStorageWriter(
        str(directory),
        fqn_to_index_mapping=_files(tensors, file_bytes * parallel.size),
        save_distributed=True,
    )
    try:
        checkpoint.save(dict(tensors), storage_writer=writer, process_group=group)
    except CheckpointException as failed:
        each = "; ".join(f"process {rank}: {why[0]}" for rank, why in failed.failures.items())
        raise WorkspaceError(f"{directory} cannot be written ({each})") from failed
    own = directory.glob(f"{PREFIX}{parallel.rank + 1:05d}-*")
    hashes = {path.name: hash_file(path) for path in own}
    every = {name: each for part in parallel.collect(hashes, group) for name, each in part.items()}
    if parallel.first and (unseen := [name for name in every if not (directory / name).is_file()]):
        raise WorkspaceError(
            f"{directory} has no {unseen[0]}, which a process on another machine wrote: the run "
            "directory has to be on a disk that all machines see under one path"
        )
    return every


def read_shards(directory: Path, tensors: Mapping[str, torch.Tensor], parallel: Parallel) -> None:
    """Fills tensors from such files, whatever the number of processes that wrote them.

    Args:
        directory: The directory.
        tensors: The tensors by name; each process reads its part of them.
        parallel: The processes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single")
        checkpoint.load(
            dict(tensors),
            storage_reader=HuggingFaceStorageReader(str(directory)),
            no_dist=parallel.size == 1,
        )


def _files(tensors: Mapping[str, torch.Tensor], most: int) -> dict[str, int]:
    """Returns the number of the file of each tensor, so that none has more than some bytes."""
    numbers, number, size = {}, 1, 0
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > most:
            number, size = number + 1, 0
        numbers[name], size = number, size + tensor.nbytes
    return numbers
