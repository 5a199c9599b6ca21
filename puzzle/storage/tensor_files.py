"""Writing tensors to safetensors files, even tensors that share memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from puzzle.errors import WorkspaceError

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor


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
        raise WorkspaceError(
            f"Cannot write {path}: {error}. It must be on a writable disk with free space: free "
            "space there or use another workspace."
        ) from error
