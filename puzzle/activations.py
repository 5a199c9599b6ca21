"""Residual streams at layer boundaries, kept in memory-mapped files."""

from __future__ import annotations

from pathlib import Path

import torch


class Boundaries:
    """Tensors of one shape, each in a file of its own, mapped into memory when asked for.

    The operating system keeps what is in use in memory and writes back the rest, so a model of
    any depth needs no more memory than one boundary.

    Args:
        directory: Where the files go; the caller deletes it.
        shape: Shape of each tensor.
        dtype: Number format.
    """

    def __init__(self, directory: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.directory, self.shape, self.dtype = directory, shape, dtype

    def __getitem__(self, index: int) -> torch.Tensor:
        """Returns the tensor of this number, writable; zeros if nothing was written."""
        size = 1
        for length in self.shape:
            size *= length
        path = str(self.directory / f"{index}.bin")
        return torch.from_file(path, shared=True, size=size, dtype=self.dtype).view(self.shape)

    def drop(self, index: int) -> None:
        """Deletes the tensor of this number, if it was written."""
        (self.directory / f"{index}.bin").unlink(missing_ok=True)
