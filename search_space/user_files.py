"""Files that a user names: `~` is the home directory, and a file is whole or not there."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def file_named(path: str | os.PathLike[str]) -> Path:
    """Returns a path in which a leading `~` is the home directory.

    Raises:
        ValueError: There is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{os.fspath(path)}: {error}; give the path without ~, or as ./~ for a file of that "
            "name"
        ) from error


def save_file(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Writes a file beside its place, syncs it, and renames it there.

    Args:
        path: The place; its directory exists.
        write: Writes what is kept to the path that it is given, which ends as `path` does.

    Raises:
        OSError: The disk refuses; what was there before is there.
        ValueError: `path` starts with the home directory of nobody.
    """
    place = file_named(path)
    fresh = place.with_name(f".puzzle-{uuid.uuid4().hex[:12]}-{place.name}")
    try:
        write(fresh)
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        fresh.replace(place)
    finally:
        fresh.unlink(missing_ok=True)
