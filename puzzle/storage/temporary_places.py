"""Temporary places: directories that end with the process that made them, or are cleaned later.

A place is locked while its process lives, and the system releases the lock however the process
ends. That holds where process numbers say nothing: a container counts them anew, and two containers
may share a host name and a disk. The name says who made the place, for people, and for file systems
without locks. On a disk that other machines write to there is no lock, but a heartbeat.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import psutil

from puzzle.storage.heartbeats import beating, beats

logger = logging.getLogger(__name__)

PREFIX = ".puzzle-"
_NAME = re.compile(
    re.escape(PREFIX) + r"[0-9a-f]{12}-(?P<boot>[0-9a-f]{8})-(?P<space>\d+)"
    r"-(?P<pid>\d+)-(?P<started>\d+)-(?P<host>.*)"
)
# No other machine can write to these: who holds no lock on them lives nowhere.
_LOCAL = {"apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "hfs", "overlay", "ramfs"}
_LOCAL |= {"tmpfs", "ufs", "xfs", "zfs"}
# The directories in which this process looked for what others left behind.
_SEEN: set[Path] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that made a place.

    Args:
        boot: Start of the operating system, hashed.
        space: Its space of process numbers, of which a container has its own.
        pid: Its number.
        started: When it started, in the system's own unit; 0 if that is not known.
        host: The name of the machine.
    """

    boot: str
    space: int
    pid: int
    started: int
    host: str

    @classmethod
    def this(cls) -> Owner:
        """Returns this process."""
        pid = os.getpid()
        host = re.sub(r"[^\w.-]", "_", socket.gethostname())[:64]
        return cls(boot=_boot(), space=_space(), pid=pid, started=_started(pid), host=host)

    @classmethod
    def of(cls, path: Path) -> Owner | None:
        """Returns who made a place, or None for what is not the name of one."""
        match = _NAME.fullmatch(path.name)
        if match is None:
            return None
        numbers = {name: int(match[name]) for name in ("space", "pid", "started")}
        return cls(boot=match["boot"], host=match["host"], **numbers)

    def place(self) -> str:
        """Returns a name for a new place."""
        token = uuid.uuid4().hex[:12]
        return f"{PREFIX}{token}-{self.boot}-{self.space}-{self.pid}-{self.started}-{self.host}"

    def lives(self) -> bool | None:
        """Returns whether the process lives, by its number; None where numbers say nothing."""
        if (self.boot, self.space) != (_boot(), _space()):
            return None
        return psutil.pid_exists(self.pid) and self.started in (0, _started(self.pid))


@cache
def _boot() -> str:
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        start = f"{psutil.boot_time():.0f}"
    return hashlib.blake2b(start.encode(), digest_size=4).hexdigest()


@cache
def _space() -> int:
    try:
        return int(re.sub(r"\D", "", os.readlink("/proc/self/ns/pid")))
    except (OSError, ValueError):
        return 0


def _started(pid: int) -> int:
    """Returns when a process started: two processes of one number differ in it."""
    try:
        # The name, which may hold spaces and brackets, ends at the last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        pass
    try:
        return int(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0


@contextmanager
def temporary_place(parent: Path | None = None) -> Iterator[Path]:
    """Yields a new directory that is deleted at the end, or by `clean_places` after a kill.

    Args:
        parent: The directory to make it in, which exists; the system's for temporary files if not
            given.

    Raises:
        OSError: The disk refuses.
    """
    directory = (parent or system_directory()).absolute()
    if parent is None and directory not in _SEEN:
        clean_places(directory)  # nobody else does
    _SEEN.add(directory)
    path, lock = _claim(directory)
    try:
        with nullcontext() if is_local(directory) else beating(path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def system_directory() -> Path:
    """Returns the system's directory for temporary files."""
    return Path(tempfile.gettempdir())


def _claim(directory: Path) -> tuple[Path, int | None]:
    """Makes a directory that nobody else has, and locks it."""
    while True:
        path = directory / Owner.this().place()
        path.mkdir(mode=0o700)
        if not is_local(directory):
            return path, None
        try:
            lock = _locked(path, wait=True)
        except FileNotFoundError:  # a cleaner came between the two
            continue
        except OSError:
            path.rmdir()
            raise
        if path.exists():
            return path, lock
        if lock is not None:
            os.close(lock)


def _locked(path: Path, *, wait: bool = False) -> int | None:
    """Returns a handle that holds the lock of a directory; None where directories have no locks.

    Raises:
        BlockingIOError: Another one holds it, and `wait` is False.
        OSError: The directory cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:  # some network file systems lock no directory
        os.close(handle)
        return None
    return handle


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A temporary place that was found.

    Args:
        path: The place.
        owner: Who made it.
        lives: Whether its owner lives; None where that cannot be known from here, as for another
            machine's on a network disk.
    """

    path: Path
    owner: Owner
    lives: bool | None


def temporary_places(directory: Path) -> list[Leftover]:
    """Returns the temporary places in a directory, of which none is deleted.

    Args:
        directory: The directory; it need not exist.
    """
    places = []
    for path, owner in _named(directory):
        try:
            lives, lock = _lives(path, owner)
        except OSError:
            continue  # it was deleted meanwhile, or is not ours to open
        if lock is not None:
            os.close(lock)
        places.append(Leftover(path=path, owner=owner, lives=lives))
    return places


def _named(directory: Path) -> Iterator[tuple[Path, Owner]]:
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if _is_place(entry))
    except OSError:
        return
    for name in names:
        owner = Owner.of(Path(name))
        if owner is not None:
            yield directory / name, owner


def _is_place(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)


def _lives(path: Path, owner: Owner) -> tuple[bool | None, int | None]:
    """Returns whether a place's owner lives, and the lock of the place if it could be had."""
    if not is_local(path):
        lives = owner.lives()
        return (False if lives is None and not beats(path) else lives), None
    try:
        lock = _locked(path)
    except BlockingIOError:
        return True, None
    return (owner.lives() if lock is None else False), lock


def is_local(path: Path) -> bool:
    """Returns whether a path is on a disk that only this machine writes to."""
    return _kind_of_disk(str(path.resolve()), path.stat().st_dev) in _LOCAL


@lru_cache(maxsize=64)
def _kind_of_disk(place: str, device: int) -> str:
    """Returns the kind of the file system of a path; after another is mounted, it is looked up."""
    best, kind = "", ""
    for disk in psutil.disk_partitions(all=True):
        mount = disk.mountpoint.rstrip("/")
        if (place == mount or place.startswith(f"{mount}/")) and len(mount) >= len(best):
            best, kind = mount, disk.fstype
    return kind


def clean_places(directory: Path) -> list[Path]:
    """Deletes the temporary places in a directory whose processes no longer live.

    Places of other users are left alone, and so is what no process of puzzle has made.

    Args:
        directory: The directory; it need not exist.

    Returns:
        What was deleted.
    """
    _SEEN.add(directory)
    deleted = []
    for path, owner in _named(directory):
        try:
            lives, lock = _lives(path, owner)
        except OSError:
            continue
        try:
            if lives is False and path.lstat().st_uid == os.getuid():
                shutil.rmtree(path, ignore_errors=True)
                if not path.exists():
                    logger.info("deleted what process %d left in %s", owner.pid, path)
                    deleted.append(path)
        except FileNotFoundError:
            pass  # its owner, or another cleaner, was faster
        finally:
            if lock is not None:
                os.close(lock)
    return deleted


def clean_up() -> list[Path]:
    """Deletes what workers of this process left in the directories in which it had places itself.

    Returns:
        What was deleted.
    """
    return [path for directory in sorted(_SEEN) for path in clean_places(directory)]
