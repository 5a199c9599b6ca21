"""The files of an artifact, with their sizes and hashes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puzzle.errors import WorkspaceError
from puzzle.storage.hashing import hash_file


def list_files(
    directory: Path, manifest: str, hashes: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Returns size and hash of each file below a directory, by its path from there.

    Args:
        directory: The directory.
        manifest: The name that the list itself will have there.
        hashes: Hashes that are known already.

    Raises:
        WorkspaceError: There is a link, or a file of that name.
    """
    files = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink() or name == manifest:
            raise WorkspaceError(
                f"The builder wrote {name!r}; an artifact holds plain files, and {manifest} is "
                "reserved: copy what a link points to, or choose another name."
            )
        if path.is_file():
            own = hashes.get(name) or hash_file(path)
            files[name] = {"size": path.stat().st_size, "hash": own}
    return files
