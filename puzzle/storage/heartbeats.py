"""Heartbeats: files and directories whose time says that the process that made them still lives.

A lock reaches as far as the kernel that keeps it, and some network file systems have none or hang.
There, the time of change says it: one thread of the process renews it as long as the process runs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Seconds between two beats, and after how many without one a process is taken for dead.
BEAT, DEAD = 10.0, 120.0
_BEATING: set[Path] = set()
_THREADS: list[threading.Thread] = []


@contextmanager
def beating(path: Path) -> Iterator[None]:
    """Renews the time of a file or a directory until the end, or the end of this process."""
    _BEATING.add(path)
    if not _THREADS:
        _THREADS.append(threading.Thread(target=_beat, daemon=True))
        _THREADS[0].start()
    try:
        yield
    finally:
        _BEATING.discard(path)


def _beat() -> None:
    while True:
        time.sleep(BEAT)
        for path in list(_BEATING):
            with suppress(OSError):
                os.utime(path)


def beats(path: Path) -> bool:
    """Returns whether a path had a beat lately; clocks of machines may differ by some seconds."""
    try:
        return time.time() - path.stat().st_mtime < DEAD
    except OSError:
        return False


# A forked process has none of its parent's threads.
os.register_at_fork(after_in_child=_THREADS.clear)
