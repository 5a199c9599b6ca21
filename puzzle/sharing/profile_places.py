"""Profiles by name: of a shared library, of a file, or of the Hub."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

from puzzle.costs.profile import Profile
from puzzle.errors import CostModelError
from puzzle.sharing.places import HubRepository
from puzzle.sharing.shared_library import SharedLibrary
from puzzle.storage.paths import user_path

__all__ = ["open_profile"]


def open_profile(
    source: Profile | str | os.PathLike[str],
    library: SharedLibrary | None = None,
) -> Profile:
    """Returns the profile that a word names.

    Args:
        source: The name of one of the library's profiles, the path of another, a file of a Hub
            repository such as "me/profiles/h100.json", or a shared library that has only one: its
            directory or hub id. A profile itself is returned.
        library: The library.

    Raises:
        CostModelError: There is no such profile, or it is of another format, altered, or of a
            parent of other sizes than the library's.
        DataError: It cannot be downloaded.
    """
    profile = source if isinstance(source, Profile) else _read(os.fspath(source), library)
    if library is not None:
        profile.require(shape=library.shape)
    return profile


def _read(word: str, library: SharedLibrary | None) -> Profile:
    if library is not None and word in library.index.profiles:
        return library.profile(word)
    path = user_path(word)
    if path.is_file():
        return Profile.load(path)
    if path.is_dir() or (re.fullmatch(r"[\w.-]+/[\w.-]+", word) and path.suffix != ".json"):
        return _only(SharedLibrary.open(word))
    owner, name, *rest = (*PurePosixPath(word).parts, "", "")
    file = "/".join(filter(None, rest))
    if file.endswith(".json") and re.fullmatch(r"[\w.-]*\w[\w.-]*", owner):
        return Profile.load(HubRepository(repo_id=f"{owner}/{name}").file(file))
    known = "" if library is None else f" and {library.place} has {_names(library)}"
    raise CostModelError(
        f"profile={word!r}: there is no such file{known}; give the name of one of a library's "
        "profiles, the path of a file, a file of the Hub such as me/profiles/h100.json, or a "
        "library that has only one"
    )


def _only(library: SharedLibrary) -> Profile:
    if len(library.index.profiles) != 1:
        raise CostModelError(
            f"profile={str(library.place)!r}: that library has {_names(library)}; give a library "
            "with one profile, or the file of one, such as "
            f"{library.place}/profiles/{next(iter(library.index.profiles), 'NAME')}.json"
        )
    return library.profile(*library.index.profiles)


def _names(library: SharedLibrary) -> str:
    return ", ".join(library.index.profiles) or "no profile"
