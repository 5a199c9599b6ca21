"""Reading JSON that somebody else may have written, cut short or altered."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from puzzle.errors import DataError, PuzzleError

Value = TypeVar("Value")

# Records are some kilobytes, and the index of a model of 500 billion parameters 10 MB.
MOST_BYTES = 256 * 2**20
# What indexing, unpacking and converting values of another shape than expected raises. A
# MemoryError is a count taken from the file.
_MISFITS: tuple[type[Exception], ...] = (AttributeError, IndexError, KeyError, MemoryError)
_MISFITS += (ArithmeticError, RecursionError, TypeError, ValueError)


def read_json(
    path: str | os.PathLike[str],
    what: str,
    *,
    error: type[PuzzleError] = DataError,
    most_bytes: int = MOST_BYTES,
    unique: bool = False,
) -> Any:
    """Returns the value in a JSON file, or raises one error whatever is wrong with it.

    Args:
        path: The file; a byte order mark at its start is skipped.
        what: What the file should be, for the message: "a table of scores".
        error: The error to raise.
        most_bytes: Files larger than this are not read.
        unique: Whether an object with the same key twice is refused; by default the last counts.

    Raises:
        PuzzleError: The class given as `error`. The file is absent, unreadable, too large, not
            text, or not JSON: it names the file, and says what should be there.

    Example:
        >>> read_json("profile.json", "a profile")  # doctest: +SKIP
    """
    place = Path(path)
    try:
        status = place.stat()
        size, mode = status.st_size, status.st_mode
        if size > most_bytes:
            raise error(
                f"{place} has {size} bytes; {what} has at most {most_bytes}: is it the right file?"
            )
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe may never end
            raise error(f"{place} is not {what}: it is no regular file")
        text = place.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=_unique if unique else None)
    except OSError as problem:
        raise error(f"{place} cannot be read ({problem.strerror or problem})") from problem
    except (ValueError, RecursionError) as problem:  # bad UTF-8 and bad JSON are ValueErrors
        raise error(f"{place} is not {what}: it is not JSON ({_reason(problem)})") from problem


def read_object(
    path: str | os.PathLike[str],
    what: str,
    *,
    error: type[PuzzleError] = DataError,
    most_bytes: int = MOST_BYTES,
    unique: bool = False,
) -> dict[str, Any]:
    """Returns the object in a JSON file; as `read_json`, and another kind of value is refused."""
    value = read_json(path, what, error=error, most_bytes=most_bytes, unique=unique)
    if not isinstance(value, dict):
        raise error(f"{path} is not {what}: it holds a JSON {_kind(value)} instead of an object")
    return value


@contextmanager
def interpreting(
    source: str | os.PathLike[str], what: str, error: type[PuzzleError] = DataError
) -> Iterator[None]:
    """Turns what values of an unexpected shape raise into one error that names their source.

    Only for code that takes values out of a file or of a caller's mapping and checks them, such as
    a `from_dict`; around other work it would hide faults of our own.

    Args:
        source: The file, or how the caller knows the values.
        what: What the values should be.
        error: The error to raise; a PuzzleError from within that names the source passes as it is.

    Example:
        >>> with interpreting("scores.json", "a table of scores"):
        ...     rows = {"scores": 3}["rows"]
        Traceback (most recent call last):
        puzzle.errors.DataError: scores.json is not a table of scores: 'rows' is missing
    """
    try:
        yield
    except PuzzleError as problem:
        if str(source) in str(problem):
            raise
        raise error(f"{source}: {problem}") from problem
    except _MISFITS as problem:
        raise error(f"{source} is not {what}: {_reason(problem)}") from problem


def read_json_lines(path: Path, what: str, convert: Callable[[Any], Value]) -> list[Value]:
    """Returns what each line of a file stands for; empty lines are passed over.

    Args:
        path: The file; a byte order mark at its start is skipped.
        what: What the file should be, for the message.
        convert: Makes a value of a line's JSON; what it raises is told with file and line.

    Raises:
        DataError: The file cannot be read, or a line is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as {what} ({error})") from error
    values = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            with interpreting(f"line {number} of {path}", what):
                values.append(convert(json.loads(line)))
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name!r} appears twice")
        values[name] = value
    return values


def _reason(problem: BaseException) -> str:
    if isinstance(problem, KeyError):
        return f"{problem.args[0]!r} is missing" if problem.args else "a value is missing"
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    return str(problem) or type(problem).__name__


def _kind(value: Any) -> str:
    names = {list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
