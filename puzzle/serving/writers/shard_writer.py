"""Writing safetensors shards as the tensors come, with little more than one shard in memory."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from puzzle.models.shards import INDEX, SINGLE
from puzzle.storage.tensor_files import save_tensors

SHARD_BYTES = 4 * 2**30


class ShardWriter:
    """Collects tensors into shards of a bounded size.

    Args:
        directory: Where the shards go.
        shard_bytes: Largest size of a shard; a larger tensor has one of its own.
    """

    def __init__(self, directory: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        self.directory, self.shard_bytes = directory, shard_bytes
        self._waiting: dict[str, torch.Tensor] = {}
        self._shards: list[list[str]] = []
        self._bytes = self.total_bytes = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Takes a tensor, and writes the waiting ones if it does not fit with them."""
        if self._waiting and self._bytes + tensor.nbytes > self.shard_bytes:
            self._flush()
        self._waiting[name] = tensor
        self._bytes += tensor.nbytes
        self.total_bytes += tensor.nbytes

    def close(self) -> None:
        """Writes what is waiting, names the shards, and writes their index if there are several."""
        self._flush()
        count = len(self._shards)
        if count == 1:
            self._path(0).rename(self.directory / SINGLE)
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            file = f"model-{number + 1:05}-of-{count:05}.safetensors"
            self._path(number).rename(self.directory / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
        (self.directory / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")

    def _path(self, number: int) -> Path:
        return self.directory / f"part-{number}.safetensors"

    def _flush(self) -> None:
        save_tensors(self._path(len(self._shards)), self._waiting, {"format": "pt"})
        self._shards.append(list(self._waiting))
        self._waiting, self._bytes = {}, 0
