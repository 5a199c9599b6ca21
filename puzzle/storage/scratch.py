"""Scratch: temporary directories on a disk of each machine's own, where there is one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from puzzle.storage.disk import disk_errors
from puzzle.storage.paths import user_path
from puzzle.storage.publishing import make_directory
from puzzle.storage.temporary_places import clean_places, temporary_place

SCRATCH = "PUZZLE_SCRATCH"


@contextmanager
def scratch_place(root: Path) -> Iterator[Path]:
    """Yields a temporary directory of this process, which is deleted at the end or after a kill.

    Args:
        root: A workspace's directory, inside which it is, unless the environment variable
            PUZZLE_SCRATCH names another one.

    Raises:
        WorkspaceError: The disk is full or cannot be written.
    """
    local = os.environ.get(SCRATCH)
    own = user_path(local).absolute() if local else root
    tmp = own if local else own / "tmp"
    instead = "use another workspace"
    if local:
        instead = f"set {SCRATCH} to another directory on {socket.gethostname()}"
    with disk_errors(tmp, own, instead):
        if local:
            make_directory(tmp)
            clean_places(tmp)
        with temporary_place(tmp) as directory:
            yield directory
