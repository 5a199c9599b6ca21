"""Files that must stay what they were when their content was hashed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from puzzle.errors import ParentError
from puzzle.storage.hashing import content_hash, hash_file
from puzzle.storage.paths import user_path

Stamp = tuple[int, int, int, int]
Record = tuple[str, Stamp, str]

# What is read beside weights and config, and must not change meanwhile either.
BESIDE = ("tokenizer*.json", "tokenizer.model", "*.jinja", "generation_config.json")
_READ = ("*.safetensors", "*.index.json", "config.json", *BESIDE)


@dataclass(slots=True, kw_only=True)
class WatchedFiles:
    """The files of a model, with what the file system said of each before it was hashed.

    A file whose inode, size and times are the same has the same content. Where they differ, as
    after a copy back or on another machine, the content is hashed again and decides.

    Args:
        directory: Where the files are.
        stamps: Inode, size and times of each, by name relative to the directory.
        hashes: Content hash of each, once it was computed.
    """

    directory: Path
    stamps: dict[str, Stamp]
    hashes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path, names: Iterable[str]) -> WatchedFiles:
        """Returns files as they are now, not yet hashed."""
        return cls(directory=directory, stamps={name: _stamp(directory / name) for name in names})

    @classmethod
    def restored(cls, directory: Path, records: Iterable[Record]) -> WatchedFiles:
        """Returns files as `records` described them, in another process perhaps."""
        stamps, hashes = {}, {}
        for name, stamp, content in records:
            stamps[name], hashes[name] = stamp, content
        return cls(directory=directory, stamps=stamps, hashes=hashes)

    def records(self) -> tuple[Record, ...]:
        """Returns name, stamp and hash of each file, for `restored`."""
        self.content()
        return tuple((name, stamp, self.hashes[name]) for name, stamp in self.stamps.items())

    def content(self, names: Iterable[str] | None = None) -> str:
        """Returns one hash of names and contents; files that changed meanwhile are an error.

        Args:
            names: The files that count; all by default.
        """
        for name in self.stamps:
            if name not in self.hashes:
                self.hashes[name] = self._hash(name)
        self.require_unchanged()
        return content_hash({name: self.hashes[name] for name in names or self.stamps})

    def require_unchanged(self, *names: str) -> None:
        """Raises ParentError if a file is not what it was.

        Args:
            names: The files; all if none is named.
        """
        for name in names or self.stamps:
            now = _stamp(self.directory / name)
            if now == self.stamps[name]:
                continue
            if self.hashes.get(name) != self._hash(name):
                raise ParentError(
                    f"{self.directory / name} was changed while it was in use, so results would be "
                    "of two models at once; nothing of the changed file was kept. Run the same "
                    "command again for a search of what is there now"
                )
            self.stamps[name] = now

    def _hash(self, name: str) -> str:
        try:
            return hash_file(self.directory / name)
        except OSError as error:
            raise _unreadable(self.directory / name, error) from error


@contextmanager
def unchanged_while_read(source: str | os.PathLike[str]) -> Iterator[None]:
    """Refuses to go on if a file of a model was changed between start and end.

    Args:
        source: A model directory or a GGUF file; what is neither, such as a hub id, is passed over.

    Raises:
        ParentError: One was; it is named.
    """
    path = user_path(source)
    files = {path} if path.suffix == ".gguf" else set()
    if path.is_dir():
        files = {each for pattern in _READ for each in path.glob(pattern)}
    directory = path if path.is_dir() else path.parent
    watched = WatchedFiles.of(directory, sorted(each.name for each in files if each.is_file()))
    try:
        yield
    except Exception as error:
        # What is read of two models at once may fail in any way.
        _require_unchanged_after(watched, error)
        raise
    watched.require_unchanged()


def _require_unchanged_after(watched: WatchedFiles, error: Exception) -> None:
    try:
        watched.require_unchanged()
    except ParentError as problem:
        raise problem from error


def _stamp(path: Path) -> Stamp:
    try:
        now = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


def _unreadable(path: Path, error: OSError) -> ParentError:
    return ParentError(
        f"{path} cannot be read ({error.strerror or error}); it has to stay while it is in use"
    )
