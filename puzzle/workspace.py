"""A directory of content-addressed artifacts that survives kills, full disks and damage."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata as packages
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

from puzzle.errors import DataError, WorkspaceError

if TYPE_CHECKING:  # torch takes seconds to import, and most uses of a workspace need none of it
    from torch import Tensor

__all__ = [
    "Artifact",
    "DamagedArtifactError",
    "Workspace",
    "content_hash",
    "free_bytes",
    "hash_file",
    "hash_tensors",
    "require_free",
    "save_tensors",
]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
Builder = Callable[[Path], Mapping[str, Any] | None]

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full: free space there or use another workspace",
    errno.EDQUOT: "the disk quota is used up: free space there or use another workspace",
    errno.EROFS: "it is on a read-only file system: use another workspace",
    errno.EACCES: "permission is denied: make it writable or use another workspace",
}


class DamagedArtifactError(WorkspaceError):
    """A stored artifact is not what was written: a file is missing, cut short or altered."""


def _canonical(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return _canonical(value.to_dict())
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    raise DataError(
        f"{value!r} ({type(value).__name__}) cannot be stored as JSON; allowed are None, bool, int, "
        "finite float, str, lists, dicts with str keys and objects with to_dict(): convert it."
    )


def content_hash(value: Any) -> str:
    """Hash a JSON-like value by its content.

    Args:
        value: None, bool, int, finite float, str, list, tuple, mapping with str keys, or an
            object with `to_dict`, nested at will. The order of keys does not count.

    Returns:
        32 hexadecimal digits.

    Raises:
        DataError: Part of the value is none of these.

    Example:
        >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
        True
    """
    text = json.dumps(_canonical(value), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def hash_file(path: str | os.PathLike[str]) -> str:
    """Hash a file's bytes without holding them in memory.

    Args:
        path: The file.

    Returns:
        32 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.

    Example:
        >>> len(hash_file("pyproject.toml"))
        32
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash tensors by name, dtype, shape and bytes.

    Args:
        tensors: Tensors by name, on any device; order and strides do not count.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> hash_tensors({"w": torch.zeros(2)}) == hash_tensors({"w": torch.zeros(1, 2)})
        False
    """
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
        digest.update(f"{len(header)}:{header}".encode())
        # numpy has no bfloat16, so every dtype is seen as bytes; a scalar has to be 1-d for that.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


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
        plain = tensor.detach().contiguous()
        storage = plain.untyped_storage()
        # safetensors refuses shared memory; a slice would also drag its whole storage along.
        if storage.data_ptr() in storages or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        storages.add(plain.untyped_storage().data_ptr())
        ready[name] = plain
    try:
        save_file(ready, path, metadata=dict(metadata) if metadata else None)
    except (SafetensorError, OSError) as error:  # a full disk reaches Python as either of them
        raise WorkspaceError(
            f"Cannot write {path}: {error}. It must be on a writable disk with free space: free "
            "space there or use another workspace."
        ) from error


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Return the bytes free on the disk of a path, which need not exist yet.

    Args:
        path: A path on the disk.

    Returns:
        Bytes that this user may still write.

    Example:
        >>> free_bytes(".") >= 0
        True
    """
    place = Path(path).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def require_free(path: str | os.PathLike[str], needed: int) -> None:
    """Fail before long work when its result would not fit on the disk.

    Args:
        path: Where the result will be written.
        needed: Bytes that it will take.

    Raises:
        WorkspaceError: Fewer bytes are free.

    Example:
        >>> require_free(".", 0)
    """
    free = free_bytes(path)
    if free < needed:
        raise WorkspaceError(
            f"{path} has {free / 2**30:.2f} GiB free and {needed / 2**30:.2f} GiB are needed: "
            "free space there or use another workspace."
        )


@contextmanager
def _disk_errors(path: Path, root: Path) -> Iterator[None]:
    """Turn what a disk refuses inside root into a WorkspaceError that names the path."""
    try:
        yield
    except OSError as error:
        where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str) else path
        # A builder may also fail to read, say, the parent's file; that is not the workspace's fault.
        if error.errno not in _DISK_ERRORS or not where.absolute().is_relative_to(root):
            raise
        raise WorkspaceError(f"Cannot write {where}: {_DISK_ERRORS[error.errno]}.") from error


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync a directory and say EINVAL.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def _versions() -> dict[str, str]:
    found = {"python": python_version()}
    for label, name in [
        ("puzzle", "puzzle-nas"),
        *((n, n) for n in ("torch", "transformers", "numpy")),
    ]:
        try:
            found[label] = packages.version(name)
        except packages.PackageNotFoundError:
            found[label] = "not installed"
    return found


def _write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps({**manifest, "checksum": content_hash(manifest)}, indent=1, sort_keys=True)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")
    _fsync(directory / MANIFEST)
    _fsync(directory)


def _list_files(directory: Path) -> dict[str, dict[str, Any]]:
    files = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink() or name == MANIFEST:
            raise WorkspaceError(
                f"The builder wrote {name!r}; an artifact holds plain files, and {MANIFEST} is "
                "reserved: copy what a link points to, or choose another name."
            )
        if path.is_file():
            files[name] = {"size": path.stat().st_size, "hash": hash_file(path)}
        _fsync(path)
    return files


class Artifact:
    """A directory of files named by the hash of what they were made from.

    Args:
        root: The workspace's directory.
        kind: What the artifact is.
        spec: What it is made from.

    Example:
        >>> Workspace("runs").artifact("scores", {"seed": 0}).exists()
        False
    """

    def __init__(self, root: Path, kind: str, spec: Mapping[str, Any]) -> None:
        self.root = root
        self.kind = kind
        self.spec: dict[str, Any] = _canonical(spec)
        self.key = content_hash({"kind": kind, "spec": self.spec, "format": FORMAT_VERSION})
        self.path = root / kind / self.key
        self._verified: dict[str, tuple[int, int]] = {}
