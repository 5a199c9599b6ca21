"""Run directories of other formats, which are left alone."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from puzzle.errors import WorkspaceError
from puzzle.storage.disk import matching
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.json_values import as_count
from puzzle.storage.paths import local_directory
from puzzle.storage.workspace import MANIFEST, RUN_FILE, RUN_FORMAT

logger = logging.getLogger(__name__)


def current_run_directory(root: str | os.PathLike[str]) -> Path:
    """Returns a run directory, or one beside it if its artifacts are of another format.

    Artifacts of another format would never be read; they are left as they are.

    Args:
        root: The requested directory; it need not exist.

    Raises:
        WorkspaceError: The format cannot be read.
    """
    path = local_directory(root)
    if not any(matching(path, f"*/*/{MANIFEST}")):
        return path
    number = run_format(path)
    if number == RUN_FORMAT:
        return path
    beside = path.with_name(f"{path.name}-format-{RUN_FORMAT}")
    logger.warning(
        "%s is a run directory of format %s and this version reads format %s: it is left as it is, "
        "and %s is used instead",
        path,
        number,
        RUN_FORMAT,
        beside,
    )
    return beside


def run_format(path: Path) -> int:
    """Returns the number of the format of a run directory's artifacts.

    Args:
        path: The run directory.

    Raises:
        WorkspaceError: The file that says so is damaged or cannot be read.
    """
    file, what = path / RUN_FILE, "a run's description"
    if not os.path.lexists(file):
        return 1  # the first format had no such file
    try:
        with interpreting(file, what, WorkspaceError):
            values = read_object(file, what, error=WorkspaceError)
            return as_count(values["format"], "format", least=1)
    except WorkspaceError as error:
        raise WorkspaceError(
            f'{error}; if this version of puzzle made the run, write {{"format": {RUN_FORMAT}}} '
            "into that file, or choose another run directory"
        ) from error
