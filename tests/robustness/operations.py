"""Every file operation below a directory, seen before it happens.

Audit hooks announce what opens, renames, makes, lists and deletes. Reads, writes and syncs have
none: Python's files are opened here with a raw file that announces them, each write in two halves,
so that between them a file is torn; `os.fsync` and safetensors' functions are wrapped. What other
libraries do in code of their own (tokenizers writes and reads its file in Rust) is seen only in
what surrounds it. An audit hook cannot be removed: this is for processes that end with it.
"""

import builtins
import errno
import io
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors import SafetensorError

SOURCES = ("puzzle", "search_space", "solvers")
# What a disk answers, by operation: full, broken, too many open files.
FAILURES = {
    "open": (errno.EMFILE, errno.EIO),
    "create": (errno.ENOSPC, errno.EMFILE, errno.EIO),
    "read": (errno.EIO,),
    "write": (errno.ENOSPC, errno.EIO),
    "sync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.ENOSPC, errno.EIO),
    "mkdir": (errno.ENOSPC, errno.EIO),
    "unlink": (errno.EIO,),
    "rmdir": (errno.EIO,),
    "list": (errno.EMFILE, errno.EIO),
    "link": (errno.ENOSPC, errno.EIO),
}
READS = ("open", "read", "list")
_EVENTS = {
    "os.rename": ("rename", 2),
    "os.mkdir": ("mkdir", 2),
    "os.remove": ("unlink", 1),
    "os.rmdir": ("rmdir", 1),
    "os.link": ("link", 2),
    "os.symlink": ("link", 2),
    "os.truncate": ("write", None),
    "os.listdir": ("list", None),
    "os.scandir": ("list", None),
}
_OPENS = (builtins.open, os.fsync, safetensors.safe_open, safetensors.serialize_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A file operation that is about to happen.

    Args:
        name: One of `FAILURES`.
        path: The file, relative to the directory watched; of a rename, the source.
        line: The innermost line of puzzle that it comes from.
    """

    name: str
    path: str
    line: str

    @property
    def changes(self) -> bool:
        """Whether the disk is another one afterwards."""
        return self.name not in READS

    @property
    def kind(self) -> tuple[str, str, str]:
        """What it is, without hashes and the names of temporary places."""
        path = re.sub(r"\.puzzle-[^/]*", "PLACE", re.sub(r"[0-9a-f]{32}", "HASH", self.path))
        return self.name, path, self.line


class Watch:
    """Calls a function before every file operation of this process below some directories.

    Args:
        roots: The directories.
        before: What to call. What it raises is what the operation raises: an OSError without a
            file's name for reads, writes and syncs, as the system's are.
    """

    def __init__(self, roots: list[Path], before: Callable[[Operation], None]) -> None:
        self.roots = [f"{root.resolve()}/" for root in roots]
        self.before = before
        self.synced: dict[int, tuple[int, int]] = {}
        self._within = False
        sys.addaudithook(self._audit)
        self._wrap()

    def announce(self, name: str, path: Any, dir_fd: Any = None) -> bool:
        """Calls the function, unless the path is elsewhere; returns whether it is watched."""
        place = None if self._within else _resolved(path, dir_fd)
        root = next((r for r in self.roots if place and f"{place}/".startswith(r)), None)
        if place is None or root is None or _changes_nothing(name, place):
            return False
        self._within = True
        try:
            short = os.path.relpath(place, root)
            self.before(Operation(name=name, path=short, line=_line()))
        except OSError as error:
            if name not in ("read", "write", "sync"):
                error.filename = place
            raise
        finally:
            self._within = False
        return True

    def lose_unsynced(self, root: Path) -> None:
        """Empties the files that were not synced since they were written, as a power cut may."""
        self._within = True
        for path in root.rglob("*"):
            if path.is_file() and _state(path.stat()) != self.synced.get(path.stat().st_ino):
                os.truncate(path, 0)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            self.announce("create" if writes else "open", path)
        elif event in _EVENTS:
            name, dir_fd = _EVENTS[event]
            self.announce(name, arguments[0], dir_fd and arguments[dir_fd])

    def _wrap(self) -> None:
        own_open, own_fsync, own_safe_open, own_serialize = _OPENS

        def fsync(file: Any) -> None:
            handle = file if isinstance(file, int) else file.fileno()
            self.announce("sync", handle)
            own_fsync(handle)
            self.synced[os.fstat(handle).st_ino] = _state(os.fstat(handle))

        def open_watched(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any):
            place = None if self._within else _resolved(file, None)
            watched = place and any(place.startswith(root) for root in self.roots)
            if not watched or buffering == 0 or "opener" in more:
                return own_open(file, mode, buffering, *rest, **more)
            return _opened(RawFile(self, file, mode), mode, *rest, **more)

        def safe_open(path: Any, *rest: Any, **more: Any) -> Any:
            self.announce("open", path)
            return own_safe_open(path, *rest, **more)

        def serialize_file(tensors: Any, path: Any, metadata: Any = None) -> None:
            try:
                if self.announce("create", path):
                    own_serialize(tensors, path, metadata)
                    os.truncate(path, os.path.getsize(path) // 2)
                self.announce("write", path)
            except OSError as error:
                # As the library words it, in an exception of its own.
                said = f"I/O error: {os.strerror(error.errno)} (os error {error.errno})"
                raise SafetensorError(f"Error while serializing: {said}") from None
            own_serialize(tensors, path, metadata)

        replaced = dict(zip(_OPENS, (open_watched, fsync, safe_open, serialize_file), strict=True))
        for module in [module for module in sys.modules.values() if module is not None]:
            if module.__name__ != __name__:
                for name in ("open", "fsync", "safe_open", "serialize_file"):
                    own = vars(module).get(name)
                    if own in _OPENS:
                        setattr(module, name, replaced[own])


class RawFile(io.FileIO):
    """A file that announces its reads and writes."""

    def __init__(self, watch: Watch, file: Any, mode: str) -> None:
        super().__init__(file, mode.replace("t", "").replace("b", ""))
        self.watch, self.place = watch, _resolved(file, None)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        half = len(view) // 2
        written = 0
        for part in (view[:half], view[half:]) if half else (view,):
            self.watch.announce("write", self.place)
            written += super().write(part)
        return written

    def readinto(self, buffer: Any) -> int | None:
        self.watch.announce("read", self.place)
        return super().readinto(buffer)

    def read(self, size: int = -1) -> bytes:
        self.watch.announce("read", self.place)
        return super().read(size)

    def readall(self) -> bytes:
        self.watch.announce("read", self.place)
        return super().readall()


def _opened(raw: RawFile, mode: str, *rest: Any, **more: Any) -> Any:
    """Returns what `open` returns around a raw file."""
    if raw.readable() and raw.writable():
        buffered = io.BufferedRandom(raw)
    else:
        buffered = io.BufferedWriter(raw) if raw.writable() else io.BufferedReader(raw)
    if "b" in mode:
        return buffered
    names = ("encoding", "errors", "newline")
    return io.TextIOWrapper(buffered, **dict(zip(names, rest, strict=False)), **more)


def _changes_nothing(name: str, place: str) -> bool:
    there = os.path.lexists(place)
    return (name == "mkdir" and there) or (name == "unlink" and not there)


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _resolved(path: Any, dir_fd: Any) -> str | None:
    """Returns the absolute path of what is named by a path or a handle."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    try:
        name = os.fsdecode(path)
    except TypeError:
        return None
    above = (
        os.readlink(f"/proc/self/fd/{dir_fd}") if isinstance(dir_fd, int) and dir_fd >= 0 else ""
    )
    return os.path.abspath(os.path.join(above, name))


def _line() -> str:
    frame: Any = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] in SOURCES:
            return f"{module}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
