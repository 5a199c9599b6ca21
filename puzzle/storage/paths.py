"""Paths that a user gives: what they stand for, and whether a target is a source."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from puzzle.errors import PuzzleError, WorkspaceError


def user_path(path: str | os.PathLike[str]) -> Path:
    """Returns a path in which a leading `~` is the home directory, as a shell would have it.

    Raises:
        WorkspaceError: There is no such home directory.

    Example:
        >>> user_path("~/run").is_absolute()
        True
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise WorkspaceError(
            f"{os.fspath(path)} starts with the home directory of a user who has none here; give "
            "the path without ~, or as ./~ for a file of that name"
        ) from error


def local_directory(path: str | os.PathLike[str]) -> Path:
    """Returns the absolute path of a directory that a user gives.

    Raises:
        WorkspaceError: It is a URL, or starts with the home directory of nobody.
    """
    # As a path, a URL would be a new directory below this one. `Path` leaves it one slash.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)):
        raise WorkspaceError(
            f"{os.fspath(path)} is a URL; give a directory of a file system, such as one where the "
            "bucket is mounted, or work on a local disk and copy the results"
        )
    return user_path(path).absolute()


def refuse_source(
    target: str | os.PathLike[str],
    sources: Iterable[Any],
    *,
    inside: Iterable[str] = (),
    error: type[PuzzleError] = WorkspaceError,
) -> None:
    """Refuses to write over what is read: the same file or directory, or one of its files.

    Links are followed, so that a path by another name is the same place.

    Args:
        target: Where something will be written.
        sources: What it is made from; what is no path of something that exists is passed over,
            such as the id of a model.
        inside: Patterns of the files that belong to a directory that is read.
        error: What is raised.

    Raises:
        PuzzleError: Of the class given.
    """
    place, patterns = user_path(target).resolve(), tuple(inside)
    for given in sources:
        if not isinstance(given, str | os.PathLike):
            continue
        source = user_path(given).resolve()
        own = place.is_file() and any(place.match(f"{source}/{pattern}") for pattern in patterns)
        if source.exists() and (place == source or own):
            raise error(
                f"{os.fspath(target)} is read from and cannot be written to: {source} would be "
                "replaced by what is made from it. Give another path"
            )
