"""Writing tensors to safetensors files: all at once, even views of one memory, or one by one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from puzzle.errors import WorkspaceError

if TYPE_CHECKING:  # torch takes seconds to import
    import torch
    from torch import Tensor

# The formats of numbers as safetensors calls them, in its order.
KINDS = {
    **{"bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "float16": "F16"},
    **{"bfloat16": "BF16", "int32": "I32", "float32": "F32", "float64": "F64", "int64": "I64"},
}


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors to a safetensors file.

    Args:
        path: The file to write.
        tensors: Tensors by name; views and tensors that share memory are copied.
        metadata: Text stored in the file's header.

    Raises:
        WorkspaceError: The file cannot be written.

    Example:
        >>> save_tensors("w.safetensors", {"w": torch.zeros(2)})
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        # safetensors refuses shared memory; a slice would also drag its whole storage along.
        if storage.data_ptr() in storages or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        storages.add(plain.untyped_storage().data_ptr())
        ready[name] = plain
    try:
        save_file(ready, path, metadata=dict(metadata) if metadata else None)
    except (SafetensorError, OSError) as error:  # a full disk raises either of them
        raise _refusal(path, error) from error


class TensorFile:
    """A safetensors file whose tensors are written one by one, in any order.

    It is the same file, byte for byte, as `save_tensors` makes of all of them together.

    Args:
        path: The file to write.
        sizes: The shape and number format of each tensor, by name.
        metadata: Text stored in the file's header.

    Raises:
        WorkspaceError: The file cannot be written.

    Example:
        >>> with TensorFile("w.safetensors", {"w": ((2,), torch.float32)}) as file:
        ...     file.write("w", torch.zeros(2))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sizes: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.sizes = path, dict(sizes)
        kinds = {name: str(dtype).removeprefix("torch.") for name, (_, dtype) in sizes.items()}
        order = list(KINDS)
        header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
        self._offsets: dict[str, int] = {}
        end = 0
        for name in sorted(sizes, key=lambda name: (-order.index(kinds[name]), name)):
            shape, dtype = sizes[name]
            start, end = end, end + math.prod(shape) * dtype.itemsize
            kind = KINDS[kinds[name]]
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
            self._offsets[name] = start
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._start, self._missing = 8 + len(text), set(sizes)
        with self._refusals():
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by `close`
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), 0, self._start + end)
            self._file.write(len(text).to_bytes(8, "little") + text)
            self._file.truncate(self._start + end)

    def write(self, name: str, tensor: Tensor) -> None:
        """Writes a tensor to its place.

        Args:
            name: Its name.
            tensor: Of the shape and the number format that were said.
        """
        import torch

        if (tuple(tensor.shape), tensor.dtype) != self.sizes[name]:
            raise WorkspaceError(f"{name} is {list(tensor.shape)} of {tensor.dtype}")
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        data: Any = plain.numpy().data
        with self._refusals():
            self._file.seek(self._start + self._offsets[name])
            while data:
                data = data[self._file.write(data) :]
        self._missing.discard(name)

    def close(self) -> None:
        """Closes the file.

        Raises:
            WorkspaceError: Tensors were not written.
        """
        with self._refusals():
            self._file.close()
        if self._missing:
            raise WorkspaceError(f"{self.path} lacks {', '.join(sorted(self._missing))}")

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._missing.clear()
        self.close()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _refusal(self.path, error) from error


def _refusal(path: str | os.PathLike[str], error: Exception) -> WorkspaceError:
    return WorkspaceError(
        f"Cannot write {path}: {error}. It must be on a writable disk with free space: free space "
        "there or use another workspace."
    )
