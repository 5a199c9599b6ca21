"""Locks on artifacts: of the system where no other machine can write, and leases elsewhere.

A lock saves work that would be done twice, and no more: what is written is published by one rename,
whoever is first, so that two processes that both hold a lock harm nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from puzzle.storage.heartbeats import DEAD, beating
from puzzle.storage.temporary_places import Owner, is_local

# Seconds between two looks at a lease that another process holds.
LOOK = 0.2


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until nobody else holds a lock, and holds it.

    Args:
        path: The lock's file; its directory exists.

    Raises:
        OSError: The disk refuses.
    """
    if is_local(path.parent):
        with FileLock(path):
            yield
    else:
        with lease(path.with_suffix(".lease")):
            yield


@contextmanager
def lease(path: Path) -> Iterator[None]:
    """Holds a lock that is a file with a heartbeat, and ends when that does.

    A process of this machine that has ended holds nothing; one of another machine holds a lease
    until its heart has not beaten for two minutes.

    Args:
        path: The file.

    Raises:
        OSError: The disk refuses.
    """
    token = Owner.this().place()
    _take(path, token)
    try:
        with beating(path):
            yield
    finally:
        if _holder(path)[0] == token:
            path.unlink(missing_ok=True)


def _take(path: Path, token: str) -> None:
    seen, since = ("", 0), time.monotonic()
    while True:
        with suppress(FileExistsError):
            # Of all calls that make a file, also NFS lets only one succeed.
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            with os.fdopen(handle, "w") as file:
                file.write(token)
            return
        now = _holder(path)
        if now != seen:
            seen, since = now, time.monotonic()
        owner = Owner.of(Path(now[0]))
        ended = owner is not None and owner.lives() is False
        if ended or time.monotonic() - since > DEAD:
            # Of several who break a lease, one may break the next one's: both then work.
            broken = path.with_name(f"{Owner.this().place()}.broken")
            with suppress(FileNotFoundError):
                path.rename(broken)
                broken.unlink()
            continue
        time.sleep(LOOK)


def _holder(path: Path) -> tuple[str, int]:
    """Returns who holds a lease, and its last beat."""
    try:
        return path.read_text(encoding="utf-8"), path.stat().st_mtime_ns
    except OSError:
        return "", 0
