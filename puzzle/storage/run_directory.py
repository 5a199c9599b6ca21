"""Run directories of other formats, which are left alone."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from puzzle.storage.disk import matching, naming
from puzzle.storage.paths import user_path
from puzzle.storage.workspace import MANIFEST, RUN_FILE, RUN_FORMAT

logger = logging.getLogger(__name__)


def current_run_directory(root: str | os.PathLike[str]) -> Path:
    """Returns a run directory, or one beside it if its artifacts are of another format.

    Artifacts of another format would never be read; they are left as they are.

    Args:
        root: The requested directory; it need not exist.

    Raises:
        OSError: It cannot be read, so that its format is not known.
    """
    path = user_path(root).absolute()
    if not any(matching(path, f"*/*/{MANIFEST}")):
        return path
    try:
        with naming(path / RUN_FILE):
            number = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))["format"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        number = 1  # the first format had no such file
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
