"""runs(): the runs in a directory, how far they are, and what came of them."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puzzle.errors import DataError, PuzzleError
from puzzle.limits.constraints import Constraint
from puzzle.serving.file_names import DISTILLED, SEARCHED
from puzzle.storage.disk import matching
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.paths import user_path
from puzzle.storage.temporary_places import temporary_places
from puzzle.storage.workspace import MANIFEST, RUN_FILE

# As they are called where they are written.
_EVIDENCE, _OPTIONS = "puzzle_evidence.json", "search.toml"
_LAST = "quality"
_DEPTH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """A run directory in a list.

    Args:
        path: The run directory.
        status: "running" (a process works in it), "finished" (its child is saved), "searched"
            (a child was measured, and none is saved in the run directory), "unfinished", "empty"
            or "unreadable" (its child's record is damaged).
        artifacts: How many it holds.
        changed: When the last of them was written, in seconds since 1970; None if there are none.
        parent: What the parent was opened from, if the child says.
        constraints: The constraints, as they are written.
        result: Figures of the child: "parameters", and where known "kl" in nats per token,
            "throughput", the factor over the parent's, and "distilled" steps.
    """

    path: Path
    status: str
    artifacts: int
    changed: float | None
    parent: str | None
    constraints: tuple[str, ...]
    result: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "path": str(self.path),
            "status": self.status,
            "artifacts": self.artifacts,
            "changed": self.changed,
            "parent": self.parent,
            "constraints": list(self.constraints),
            "result": self.result,
        }


def runs(directory: str | os.PathLike[str] = ".") -> tuple[RunEntry, ...]:
    """Lists the run directories in a directory: itself, and those up to two levels below.

    Args:
        directory: The directory.

    Returns:
        One entry for each, by path.

    Raises:
        DataError: It is not a directory.

    Example:
        >>> [entry.path.name for entry in runs("results")]  # doctest: +SKIP
        ['half', 'puzzle-run']
    """
    root = user_path(directory)
    if not root.is_dir():
        raise DataError(f"{root} is not a directory; give one that run directories are in")
    return tuple(_entry(path) for path in sorted(_run_directories(root, _DEPTH)))


def _run_directories(path: Path, depth: int) -> Iterator[Path]:
    if (path / RUN_FILE).is_file():
        yield path
    elif depth:
        try:
            below = [each for each in path.iterdir() if each.is_dir() and not each.is_symlink()]
        except OSError:
            return  # not ours to read
        for each in below:
            yield from _run_directories(each, depth - 1)


def _entry(path: Path) -> RunEntry:
    written = [file.stat().st_mtime for file in matching(path, f"*/*/{MANIFEST}")]
    status = "unfinished" if written else "empty"
    # The last stage of a search; a search from Python saves its child only when that is called.
    if any(matching(path, f"{_LAST}/*/{MANIFEST}")):
        status = "searched"
    parent, constraints, result = None, _given_constraints(path / _OPTIONS), {}
    try:
        result = _result(path / "child")
        status = "finished" if result else status
        if (path / "child" / _EVIDENCE).is_file():
            parent, constraints = _evidence(path / "child" / _EVIDENCE)
    except PuzzleError:
        status = "unreadable"
    if any(place.lives for place in temporary_places(path / "tmp")):
        status = "running"
    return RunEntry(
        path=path,
        status=status,
        artifacts=len(written),
        changed=max(written, default=None),
        parent=parent,
        constraints=constraints,
        result=result,
    )


def _given_constraints(file: Path) -> tuple[str, ...]:
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8")).get("constraint", [])
    except (OSError, ValueError, RecursionError):
        return ()
    return tuple(map(str, given)) if isinstance(given, list) else (str(given),)


def _result(child: Path) -> dict[str, float]:
    result: dict[str, float] = {}
    file = child / SEARCHED
    if file.is_file():
        values = read_object(file, "the record of a search")
        with interpreting(file, "the record of a search"):
            measured = values["measured"]["child"]
            result["parameters"] = float(measured["parameters"])
            if "kl" in measured:
                result["kl"] = float(measured["kl"])
            for part in ("predicted", "measured"):
                if "throughput" in values["speedup"][part]:
                    result["throughput"] = float(values["speedup"][part]["throughput"])
    file = child / DISTILLED
    if file.is_file():
        values = read_object(file, "the record of a distillation")
        with interpreting(file, "the record of a distillation"):
            result["distilled"] = float(values["steps"])
    return result


def _evidence(file: Path) -> tuple[str | None, tuple[str, ...]]:
    values = read_object(file, "the evidence of a search")
    with interpreting(file, "the evidence of a search"):
        parent = values.get("run", {}).get("parent", {})
        constraints = []
        for given in values["constraints"]:
            at = tuple((str(name), int(number)) for name, number in given.get("at", ()))
            constraints.append(str(Constraint(**{**given, "at": at})))
        name = parent.get("source") or parent.get("name")
        return (None if name is None else str(name)), tuple(constraints)
