"""Publishing: how everything that is kept gets to its place, whole and for good.

What is kept is written in a temporary place on the same disk, synced file by file and directory by
directory, and renamed: after a kill or a power cut, it is there as a whole or not at all. A
directory that puzzle wrote has a record of its files and their hashes, so that another one of
puzzle's can replace it, and nothing else is ever deleted.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from puzzle.errors import DamagedArtifactError, PuzzleError, WorkspaceError
from puzzle.storage.disk import disk_errors, fsync
from puzzle.storage.hashing import hash_file
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.temporary_places import clean_places, temporary_place

# The record of a directory's files. Of a name there may be two hashes while it is replaced.
FILES, FORMAT = "puzzle_files.json", 1
# What makes a directory look like a model: it comes last, and goes first.
_LAST = ("config.json",)
logger = logging.getLogger(__name__)
Hashes = Mapping[str, tuple[str, ...]]


def publish(fresh: Path, target: Path, place: Path) -> None:
    """Renames a file or directory to where it is kept, synced, in place of what is there.

    Args:
        fresh: What was written.
        target: Where it goes, on the same disk; its directory exists. A link there is replaced,
            not followed.
        place: The temporary place that what was there is moved to, to be deleted with it.

    Raises:
        OSError: The disk refuses; what was there is there.
    """
    _sync(fresh)
    if target.is_dir() and not target.is_symlink():
        old = place / "replaced"
        target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            old.rename(target)
            raise
    elif fresh.is_dir():
        target.unlink(missing_ok=True)  # a directory cannot be renamed onto a file or a link
        fresh.rename(target)
    else:
        fresh.replace(target)
    fsync(target.parent)


def publish_unless_there(fresh: Path, target: Path) -> bool:
    """Renames a directory to where it is kept, synced; returns False if something is there.

    Args:
        fresh: What was written.
        target: Where it goes, on the same disk; its directory exists.

    Raises:
        OSError: The disk refuses.
    """
    _sync(fresh)
    try:
        fresh.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        return False
    fsync(target.parent)
    return True


def _sync(path: Path) -> None:
    for directory, _, names in os.walk(path):
        for name in names:
            fsync(Path(directory, name))
        fsync(Path(directory))
    if path.is_file():
        fsync(path)


@contextmanager
def publishing_file(path: Path, *, error: type[PuzzleError] = WorkspaceError) -> Iterator[Path]:
    """Yields a path to write a file to, which takes the place of another at the end.

    Args:
        path: The file. A link that is sound is followed: what it points to is replaced.
        error: What is raised where a directory is in the way.

    Raises:
        PuzzleError: Of the class given: there is a directory of that name.
        WorkspaceError: The disk is full or cannot be written.
    """
    target = path.resolve() if path.is_file() else path.absolute()
    if target.is_dir():
        raise error(f"{path} is a directory; give the path of a file to write")
    with disk_errors(target, target.parent):
        make_directory(target.parent)
        clean_places(target.parent)
        with temporary_place(target.parent) as place:
            yield place / target.name
            publish(place / target.name, target, place)


def publish_text(path: Path, text: str) -> None:
    """Writes a text file as UTF-8, whole or not at all; as `publishing_file`."""
    with publishing_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


@contextmanager
def publishing_directory(
    path: Path, *, claims: Iterable[str] = (), error: type[PuzzleError] = WorkspaceError
) -> Iterator[Path]:
    """Yields a directory to write files into, which are moved to where they are kept at the end.

    A directory that is not there yet appears as a whole. Into one that is, files are moved one by
    one, `config.json` last: what cannot be loaded yet does not look like a model. What an earlier
    call wrote there is replaced, or deleted where a name is claimed and not written again; the
    rest of the directory stays as it is.

    Args:
        path: Where the files end up.
        claims: Patterns of files that would be read as if they belonged to the new ones. Those
            that an earlier call wrote are deleted, and others are refused.
        error: What is raised where something is in the way.

    Raises:
        PuzzleError: Of the class given: `path` is a file, or holds files of these names that were
            not written by puzzle, or were changed since.
        WorkspaceError: The disk is full or cannot be written.
    """
    target = path.resolve() if path.is_dir() else path.absolute()
    patterns, there = tuple(claims), target.is_dir()
    require_replaceable(target, patterns, error=error)
    with disk_errors(target, target.parent):
        # Inside what is there, which may be a disk of its own.
        beside = target if there else target.parent
        make_directory(beside)
        for each in {beside, target.parent}:  # where the first call made its place, too
            clean_places(each)
        with temporary_place(beside) as place:
            fresh = place / target.name
            fresh.mkdir()
            yield fresh
            hashes = {name: (hash_file(fresh / name),) for name in _files(fresh)}
            _write_record(fresh, hashes)
            _sync(fresh)
            if not _appear(fresh, target):
                _move_in(fresh, target, hashes, patterns, error)


def require_replaceable(
    path: Path,
    claims: Iterable[str],
    *,
    kept: Mapping[str, str] = MappingProxyType({}),
    error: type[PuzzleError] = WorkspaceError,
) -> None:
    """Refuses a directory in which files are that puzzle did not write and would have to delete.

    Args:
        path: The directory; it need not exist.
        claims: Patterns of the files that would be replaced or deleted.
        kept: Names of records, and what a directory with one of them is that is no other version
            of what is written: "the child of a search", which nobody expects to lose.
        error: What is raised.

    Raises:
        PuzzleError: Of the class given, naming the files.
    """
    if os.path.lexists(path) and not path.exists():
        return  # a dangling link, which is replaced
    if path.exists() and not path.is_dir():
        raise error(f"{path} is a file; give a directory, which may be there or not")
    for name, what in kept.items():
        if (path / name).is_file():
            raise error(
                f"{path} is {what} ({name}), which would be replaced: give another directory, or "
                "move it away"
            )
    names = {
        file.relative_to(path).as_posix()
        for pattern in claims
        for file in path.glob(pattern)
        if not file.is_dir()
    }
    _refuse_foreign(path, names, error)


def _refuse_foreign(path: Path, names: Iterable[str], error: type[PuzzleError]) -> None:
    own = written_files(path)
    foreign = [
        name
        for name in sorted(names)
        if os.path.lexists(path / name)
        and not ((path / name).is_file() and hash_file(path / name) in own.get(name, ()))
    ]
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if foreign[5:] else "")
        raise error(
            f"{path} holds files that would be replaced and that puzzle did not write, or that "
            f"were changed since: {shown}. Give another directory, or move them away"
        )


def written_files(directory: Path) -> Hashes:
    """Returns the hashes of each file that puzzle wrote into a directory, by its name.

    Of a file that was being replaced when the process was killed, either of two may be there.

    Args:
        directory: The directory; one without a record holds nothing of puzzle's.

    Raises:
        DamagedArtifactError: The record cannot be read.
    """
    file = directory / FILES
    if not file.is_file():
        return {}
    what = "a record of written files"
    with interpreting(file, what, DamagedArtifactError):
        values = read_object(file, what, error=DamagedArtifactError)
        if values["format"] != FORMAT:
            raise DamagedArtifactError(f"format {values['format']!r}; this version reads {FORMAT}")
        return {str(name): tuple(map(str, each)) for name, each in values["files"].items()}


def require_unchanged(
    directory: Path, suffixes: tuple[str, ...], *, error: type[PuzzleError] = WorkspaceError
) -> None:
    """Refuses a directory in which files that puzzle wrote are missing or not what was written.

    Args:
        directory: The directory; one without a record, which others wrote, is not checked.
        suffixes: How the names of the files end that are read now.
        error: What is raised.

    Raises:
        PuzzleError: Of the class given, naming the file.
    """
    for name, hashes in written_files(directory).items():
        file = directory / name
        if name.endswith(suffixes) and not (file.is_file() and hash_file(file) in hashes):
            what = "is not what puzzle wrote" if file.is_file() else "is missing"
            raise error(
                f"{file} {what}: copy or save the model again; if it was changed on purpose, "
                f"delete {directory / FILES}"
            )


def add_files(directory: Path, texts: Mapping[str, str]) -> None:
    """Writes text files into a directory of puzzle's, in place of others, and into its record.

    Args:
        directory: The directory; without a record, it gets none.
        texts: The texts by file name, in the order in which they appear.

    Raises:
        WorkspaceError: The disk is full or cannot be written.
    """
    target = directory.absolute()
    clean_places(target)
    with disk_errors(target, target), temporary_place(target) as place:
        for name, text in texts.items():
            (place / name).write_text(text, encoding="utf-8")
        hashes = {name: (hash_file(place / name),) for name in texts}
        _sync(place)
        with _alone(target):
            old = written_files(target)
            if old:
                both = {name: (*old.get(name, ()), *each) for name, each in hashes.items()}
                _record(place, target, {**old, **both})
            for name in texts:
                (place / name).replace(target / name)
                fsync(target)
            if old:
                _record(place, target, {**old, **hashes})


def _write_record(directory: Path, hashes: Hashes) -> None:
    text = json.dumps({"format": FORMAT, "files": hashes}, indent=1, sort_keys=True)
    (directory / FILES).write_text(text + "\n", encoding="utf-8")


def _appear(fresh: Path, target: Path) -> bool:
    """Renames a directory to a name that nothing has; returns whether it was free."""
    if target.is_dir():
        return False
    try:
        target.unlink(missing_ok=True)  # a dangling link
        fresh.rename(target)
    except OSError as problem:
        if problem.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
            return False
        raise
    fsync(target.parent)
    return True


def _files(directory: Path) -> list[str]:
    paths = (path for path in directory.rglob("*") if not path.is_dir())
    return sorted(path.relative_to(directory).as_posix() for path in paths)


def _move_in(
    fresh: Path, target: Path, hashes: Hashes, claims: tuple[str, ...], error: type[PuzzleError]
) -> None:
    """Moves files into a directory that holds others, such that a kill leaves no half model."""
    with _alone(target):
        require_replaceable(target, claims, error=error)
        _refuse_foreign(target, hashes, error)
        old = written_files(target)
        both = {name: (*old.get(name, ()), *hashes.get(name, ())) for name in {*old, *hashes}}
        _record(fresh, target, both)
        stale = {f.name for pattern in claims for f in target.glob(pattern)} & old.keys()
        first = [name for name in _LAST if name in hashes or name in stale]
        for name in (*first, *sorted(stale - hashes.keys() - {*first})):
            (target / name).unlink(missing_ok=True)
            fsync(target)
        for name in sorted(hashes, key=lambda name: name in _LAST):
            make_directory((target / name).parent)
            if name in _LAST:
                fsync(target)  # the rest is there for good before it looks like a model
            (fresh / name).replace(target / name)
            fsync((target / name).parent)
        kept = {name: each for name, each in old.items() if (target / name).exists()}
        _record(fresh, target, {**kept, **hashes})


def _record(fresh: Path, target: Path, hashes: Hashes) -> None:
    _write_record(fresh, hashes)
    fsync(fresh / FILES)
    (fresh / FILES).replace(target / FILES)
    fsync(target)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Waits until nobody else moves files into a directory; where it cannot be locked, goes on."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems lock no directory
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def make_directory(path: Path) -> None:
    """Makes a directory and those above it, so that they outlive a power cut.

    Raises:
        OSError: The disk refuses, or something else has that name.
    """
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    fsync(path.parent)


def own_directory(path: Path) -> None:
    """Makes a directory of a workspace; a file or a dangling link in its place is deleted."""
    if os.path.lexists(path) and not path.is_dir():
        logger.warning("%s is no directory, and is deleted to make one", path)
        path.unlink()
    make_directory(path)
