"""Residual streams in memory-mapped files, and going over them in batches."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from puzzle.storage.disk import disk_errors
from puzzle.storage.temporary_places import temporary_place
from search_space import ModelShape

# Bytes of the activations that one batch of windows takes inside a layer.
ACTIVATION_BYTES = 2**30
# A tensor of fewer bytes stays in memory.
SMALL = 2**16
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Boundaries:
    """Tensors of one shape, each in a file of its own, mapped into memory on access.

    The operating system keeps what is in use in memory and writes back the rest, so a model of
    any depth needs no more memory than one boundary.

    Args:
        directory: Where the files go; the caller deletes it.
        shape: Shape of each tensor.
        dtype: Number format.
    """

    def __init__(self, directory: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.directory, self.shape, self.dtype = directory, shape, dtype
        directory.mkdir(exist_ok=True)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Returns the tensor with this number, writable; zeros if nothing was written.

        Raises:
            OSError: The disk has no room for it.
        """
        path, size = self.directory / f"{index}.bin", math.prod(self.shape)
        if not path.exists():
            _reserve(path, size * self.dtype.itemsize)
        return torch.from_file(str(path), shared=True, size=size, dtype=self.dtype).view(self.shape)

    def drop(self, index: int) -> None:
        """Deletes the tensor with this number, if it was written."""
        (self.directory / f"{index}.bin").unlink(missing_ok=True)


def mapped_tensor(root: Path, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Returns zeros in a file of their own, which the disk frees with the last reference to them.

    Args:
        root: A workspace's directory.
        shape: Shape of the tensor.
        dtype: Number format.

    Raises:
        WorkspaceError: The disk has no room for it, or cannot be written.
    """
    size, tmp = math.prod(shape), root / "tmp"
    # The mapping outlives the name, so that a kill leaves nothing behind.
    with disk_errors(tmp, root), temporary_place(tmp) as place:
        path = place / "stream.bin"
        _reserve(path, max(1, size) * dtype.itemsize)
        return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)


class MappedTensors(dict[str, torch.Tensor]):
    """Tensors by name, copied to the host when they come, the large ones into files.

    Args:
        root: A workspace's directory.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __setitem__(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.nbytes < SMALL:
            super().__setitem__(name, tensor.detach().cpu().clone())
            return
        place = mapped_tensor(self.root, tuple(tensor.shape), tensor.dtype)
        super().__setitem__(name, place.copy_(tensor))


def windows_together(shape: ModelShape, length: int, dtype: torch.dtype) -> int:
    """Returns how many windows a layer may read in one batch, by the size of its activations.

    Args:
        shape: The parent's sizes.
        length: Tokens per window.
        dtype: Number format it works in.

    Example:
        >>> shape = ModelShape(layers=126, hidden=16384, heads=128, head_dim=128, kv_heads=8,
        ...                    ffn_width=53248, vocab=128256)
        >>> windows_together(shape, 256, torch.bfloat16)
        9
    """
    widest = max(shape.ffn_width, shape.heads * shape.head_dim, shape.hidden)
    # Gate, up, their product, and what an activation function leaves on the way.
    return max(1, ACTIVATION_BYTES // (4 * length * widest * dtype.itemsize))


def _reserve(path: Path, size: int) -> None:
    """Makes a file of zeros whose room on the disk is reserved.

    Writing to a mapped page that the disk has no room for kills the process, whereas a full disk
    raises an error here.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        zeros = bytes(1 << 20)
        for start in range(0, size, len(zeros)):
            file.write(zeros[: size - start])


def in_batches(rows: range, size: int, compute: Callable[[slice], T]) -> Iterator[tuple[slice, T]]:
    """Yields (rows, what `compute` returns for them), batch by batch.

    Where the device runs out of memory, that batch and all later ones have half as many rows.

    Args:
        rows: First and last row.
        size: Rows per batch.
        compute: Is called with each slice; must have no effect when it fails.

    Raises:
        torch.OutOfMemoryError: Not even one row fits.

    Example:
        >>> [size for _, size in in_batches(range(5), 2, lambda rows: rows.stop - rows.start)]
        [2, 2, 1]
    """
    start = rows.start
    while start < rows.stop:
        part = slice(start, min(start + size, rows.stop))
        try:
            result = compute(part)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            logger.warning("out of device memory; continuing with batches of %d windows", size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield part, result
        start = part.stop
