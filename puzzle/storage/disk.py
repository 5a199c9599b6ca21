"""Disk errors: free space is checked before long work, and a failure names path and cause."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from puzzle.errors import WorkspaceError

_REFUSALS = {
    errno.ENOSPC: "the disk is full: free space there or",
    errno.EDQUOT: "the disk quota is used up: free space there or",
    errno.EFBIG: "no file may be that large (ulimit -f, or the file system): lift the limit or",
    errno.EROFS: "it is on a read-only file system:",
    errno.EACCES: "permission is denied: make it writable or",
}


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
            f"{path} has {size_text(free)} free and {size_text(needed)} are needed: "
            "free space there or use another workspace."
        )


def size_text(size: int) -> str:
    """Returns bytes as people read them.

    Example:
        >>> size_text(300_000), size_text(5 * 2**30)
        ('0.3 MiB', '5.00 GiB')
    """
    return f"{size / 2**20:.1f} MiB" if size < 2**27 else f"{size / 2**30:.2f} GiB"


@contextmanager
def disk_errors(path: Path, root: Path, instead: str = "use another workspace") -> Iterator[None]:
    """Turn the disk's errors inside root into a WorkspaceError that names the path.

    Args:
        path: What is written.
        root: The directory whose errors are meant.
        instead: What to do if the disk stays as it is.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:  # safetensors raises it when the disk is full
        raise WorkspaceError(f"Cannot write {path}: {error}; is its disk full?") from error
    except OSError as error:
        where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str) else path
        if error.errno == errno.EIO and error.filename is None:
            # The system names no file where a read or a write fails, and it may be either here.
            raise WorkspaceError(
                f"While {path} was written: {error.strerror}; see whether its disk is sound, and "
                "that of what it is made from."
            ) from error
        # A builder may also fail to read, say, the parent's file: not the workspace's fault.
        if error.errno not in _REFUSALS or not where.absolute().is_relative_to(root):
            raise
        raise WorkspaceError(
            f"Cannot write {where}: {_REFUSALS[error.errno]} {instead}."
        ) from error


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Names the file in the errors of reads, writes and syncs, in which the system names none."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def fsync(path: Path) -> None:
    """Makes a file, or the list of a directory's files, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync a directory and return EINVAL.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def matching(directory: Path, pattern: str) -> list[Path]:
    """Returns what matches a pattern, sorted, though other processes delete directories meanwhile.

    Args:
        directory: The directory; it need not exist.
        pattern: As for `Path.glob`, which raises when a directory is gone before it is listed.

    Raises:
        OSError: The disk refuses.
    """
    for _ in range(100):
        with suppress(FileNotFoundError):
            return sorted(directory.glob(pattern))
    return sorted(directory.glob(pattern))
