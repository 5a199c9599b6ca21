"""doctor(): is a run directory sound, and what in it can be deleted?"""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from puzzle.errors import DamagedArtifactError, DataError, WorkspaceError
from puzzle.storage.disk import free_bytes, matching, size_text
from puzzle.storage.hashing import hash_file
from puzzle.storage.paths import user_path
from puzzle.storage.publishing import FILES, written_files
from puzzle.storage.run_directory import run_format
from puzzle.storage.temporary_places import clean_places, system_directory, temporary_places
from puzzle.storage.versions import versions
from puzzle.storage.workspace import (
    MANIFEST,
    RUN_FILE,
    RUN_FORMAT,
    ArtifactRef,
    discard_stored,
    stored_artifact,
)

_KEY = re.compile(r"[0-9a-f]{32}")
# Of these, a run gives the wrong result or none until something is done.
_FAULTS = ("format", "damaged", "child")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about a run directory that its owner should know.

    Args:
        kind: "format", "damaged" (an artifact), "child" (a saved child), "leftover" (of a process
            that was killed), "disk", "versions" or "device".
        path: Where.
        message: What it is, and what to do.
        bytes: How much room it takes.
        deletable: Whether it can be deleted: nothing is lost that a run would not build again.
        deleted: Whether it was.
    """

    kind: str
    path: Path
    message: str
    bytes: int = 0
    deletable: bool = False
    deleted: bool = False

    def __str__(self) -> str:
        done = " (deleted)" if self.deleted else " (--clean deletes it)" if self.deletable else ""
        return f"{self.kind}: {self.path}: {self.message}{done}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a run directory holds, and what is wrong with it.

    Args:
        path: The run directory.
        artifacts: Sound artifacts by kind.
        bytes: What the directory takes.
        free: Bytes that its disk has left.
        findings: What was found.
    """

    path: Path
    artifacts: Mapping[str, int]
    bytes: int
    free: int
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether the next run can go on from here, with nothing damaged left."""
        return not any(f.kind in _FAULTS and not f.deleted for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        found = [{**asdict(each), "path": str(each.path)} for each in self.findings]
        values = {"path": str(self.path), "sound": self.sound, "bytes": self.bytes}
        return {
            **values,
            "free": self.free,
            "artifacts": dict(self.artifacts),
            "findings": found,
        }

    def __str__(self) -> str:
        count = sum(self.artifacts.values())
        kinds = ", ".join(f"{number} {kind}" for kind, number in self.artifacts.items())
        verdict = "sound" if self.sound else "NOT SOUND"
        head = f"{self.path}: {verdict}; {count} sound artifacts{f' ({kinds})' if kinds else ''}, "
        head += f"{self.bytes / 2**20:.1f} MiB, {self.free / 2**30:.1f} GiB free"
        return "\n".join([head, *(f"  {finding}" for finding in self.findings)])


def doctor(run: str | os.PathLike[str] = "puzzle-run", *, clean: bool = False) -> Diagnosis:
    """Checks a run directory: formats, hashes, leftovers, disk, versions and devices.

    Nothing is changed unless `clean` is given. Then what can be deleted is: temporary places of
    processes that no longer live, in the run directory and in the system's directory for temporary
    files, and artifacts that are damaged or incomplete, which a run would build again.

    Args:
        run: The run directory.
        clean: Delete what can be deleted.

    Returns:
        What is there, and what is wrong.

    Raises:
        DataError: It is not a run directory.

    Example:
        >>> print(doctor("puzzle-run", clean=True))  # doctest: +SKIP
    """
    root = user_path(run).absolute()
    stored = list(_stored(root))
    if not stored and not (root / RUN_FILE).is_file():
        raise DataError(
            f"{root} is not a run directory: it has neither {RUN_FILE} nor artifacts. Give the "
            "directory that a search or distillation wrote to (--out), or find it with puzzle runs"
        )
    findings = [*_format(root), *_leftovers(root)]
    sound: Counter[str] = Counter()
    made: list[Mapping[str, Any]] = []
    for ref in stored:
        try:
            artifact = stored_artifact(root, ref)
            artifact.verify()
            made.append(artifact.manifest)
            sound[ref.kind] += 1
        except DamagedArtifactError as error:
            findings.append(_damaged(root, ref, error))
    findings += [*_children(root), *_versions(root, made), *_devices(root, made)]
    size, free = _size(root), free_bytes(root)
    if free < size:
        message = f"{size_text(free)} are free and the run takes {size_text(size)}"
        findings.append(
            Finding(kind="disk", path=root, message=f"{message}: free space before the next run")
        )
    if clean:
        findings = [_deleted(root, finding) for finding in findings]
    return Diagnosis(
        path=root,
        artifacts=dict(sorted(sound.items())),
        bytes=size,
        free=free,
        findings=tuple(findings),
    )


def _stored(root: Path) -> Iterator[ArtifactRef]:
    """Yields the name of everything that has the place of an artifact, sound or not."""
    for path in matching(root, "*/*"):
        if _KEY.fullmatch(path.name) and path.parent.name not in ("tmp", "locks"):
            yield ArtifactRef(kind=path.parent.name, key=path.name)


def _format(root: Path) -> Iterator[Finding]:
    file = root / RUN_FILE
    try:
        number = run_format(root)
    except WorkspaceError as error:
        yield Finding(kind="format", path=file, message=str(error))
        return
    if number != RUN_FORMAT:
        message = f"format {number}, and this version reads {RUN_FORMAT}: it is left as it is, and "
        message += "a run makes a directory of its own beside it"
        yield Finding(kind="format", path=file, message=message)


def _damaged(root: Path, ref: ArtifactRef, error: DamagedArtifactError) -> Finding:
    path = root / ref.kind / ref.key
    whole = (path / MANIFEST).exists()
    message = str(error).split(";")[0] if whole else "has no manifest: it was being deleted"
    return Finding(
        kind="damaged",
        path=path,
        message=message.removeprefix(f"{path}{os.sep}"),
        bytes=_size(path),
        # What is a file there was not written by puzzle; a run would replace it.
        deletable=path.is_dir() or path.is_symlink(),
    )


def _leftovers(root: Path) -> Iterator[Finding]:
    directories = [root, *(path for path in sorted(root.iterdir()) if path.is_dir())]
    for directory in (*directories, system_directory()):
        for place in temporary_places(directory):
            if place.lives:
                continue
            who = f"process {place.owner.pid} of {place.owner.host}"
            if place.lives is None:
                who += ", which may still run there: delete it by hand if it does not"
            else:
                who += " was killed and left it"
            yield Finding(
                kind="leftover",
                path=place.path,
                message=who,
                bytes=_size(place.path),
                deletable=place.lives is False,
            )


def _children(root: Path) -> Iterator[Finding]:
    for record in matching(root, f"*/{FILES}"):
        try:
            hashes = written_files(record.parent)
        except DamagedArtifactError as error:
            yield Finding(kind="child", path=record, message=str(error))
            continue
        for name, known in hashes.items():
            file = record.parent / name
            if not file.is_file():
                yield Finding(kind="child", path=file, message="is missing; save the child again")
            elif hash_file(file) not in known:
                message = "was changed since puzzle wrote it; if that was not you, move it away "
                yield Finding(kind="child", path=file, message=f"{message}and save the child again")


def _versions(root: Path, made: list[Mapping[str, Any]]) -> Iterator[Finding]:
    here = versions()
    others: Counter[tuple[str, str]] = Counter()
    for manifest in made:
        for name, version in manifest.get("versions", {}).items():
            if here.get(name, version) != version:
                others[name, str(version)] += 1
    for (name, version), count in sorted(others.items()):
        message = f"{count} artifacts were made with {name} {version}, and {here[name]} is here: "
        message += "they are reused, and new ones may differ a little"
        yield Finding(kind="versions", path=root, message=message)


def _devices(root: Path, made: list[Mapping[str, Any]]) -> Iterator[Finding]:
    here = (platform.processor() or platform.machine(), psutil.cpu_count(logical=True))
    others: Counter[str] = Counter()
    for manifest in made:
        device = manifest.get("spec", {}).get("device")
        if not isinstance(device, dict) or "processor" not in device:
            continue
        if (device["processor"], device.get("cores")) != here:
            others[f"{device['processor']} with {device.get('cores')} cores"] += 1
    for name, count in sorted(others.items()):
        message = f"{count} artifacts were measured on {name}, which is not this machine: they are "
        message += "kept, and measured here again"
        yield Finding(kind="device", path=root, message=message)


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size if os.path.lexists(path) else 0
    return sum(_size(each) for each in path.iterdir())


def _deleted(root: Path, finding: Finding) -> Finding:
    if not finding.deletable:
        return finding
    if finding.kind == "leftover":
        clean_places(finding.path.parent)
    else:
        discard_stored(root, ArtifactRef(kind=finding.path.parent.name, key=finding.path.name))
    return replace(finding, deleted=not os.path.lexists(finding.path))
