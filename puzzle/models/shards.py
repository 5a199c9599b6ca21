"""Where a parent's tensors come from: safetensors shards, or a model already in memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from puzzle.errors import ParentError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# What safetensors calls the formats that a child can be stored in.
FORMATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class Shards(Mapping[str, torch.Tensor]):
    """The tensors of a directory of safetensors shards, each read from disk on access.

    Args:
        directory: Holds `model.safetensors`, or the index and the shards it names.

    Raises:
        ParentError: There are no safetensors, or a shard is missing or damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if (directory / INDEX).is_file():
            index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
            self._files: dict[str, str] = index["weight_map"]
        elif (directory / SINGLE).is_file():
            with self._open(SINGLE) as shard:
                self._files = dict.fromkeys(shard.keys(), SINGLE)
        else:
            raise ParentError(
                f"{directory} holds neither {SINGLE} nor {INDEX}; save the model with "
                "save_pretrained first (pickled weights are not opened)"
            )
        missing = sorted({f for f in self._files.values() if not (directory / f).is_file()})
        if missing:
            raise ParentError(f"{directory} lacks the shards {missing}; download them again")

    def _open(self, name: str) -> safe_open:
        try:
            return safe_open(self.directory / name, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ParentError(
                f"{self.directory / name} is damaged ({error}); download or save it again"
            ) from error

    def files(self) -> list[Path]:
        """Returns the shard files."""
        return [self.directory / name for name in sorted(set(self._files.values()))]

    def number_format(self) -> str | None:
        """Returns the number format of most tensors, one of `FORMATS`, or None."""
        kinds: Counter[str] = Counter()
        for file in set(self._files.values()):
            names = [name for name, where in self._files.items() if where == file]
            with self._open(file) as shard:
                kinds.update(shard.get_slice(name).get_dtype() for name in names)
        return FORMATS.get(kinds.most_common(1)[0][0]) if kinds else None

    def __getitem__(self, name: str) -> torch.Tensor:
        with self._open(self._files[name]) as shard:
            return shard.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def refuse_non_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ParentError naming the first tensor that holds NaN or infinity.

    Tensors are read one at a time, so this costs one pass over the files and no memory.
    """
    for name in tensors:
        tensor = tensors[name]
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ParentError(
                f"the parent's tensor {name!r} holds {bad} NaN or infinite values; "
                "repair or download the checkpoint again"
            )
