"""Values out of JSON, checked: what a file claims to be a number is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any

from puzzle.errors import DataError

# Numbers of ours are below 2**200; of a longer one, no message should quote every digit.
_SHOWN = 60


def as_number(value: Any, name: str, *, finite: bool = True, least: float = -math.inf) -> float:
    """Returns a number as it is, or raises.

    Args:
        value: From JSON.
        name: What it is, for the message.
        finite: Whether NaN and infinity are refused.
        least: The least that is allowed.

    Raises:
        DataError: It is no number, too large for a float, or not allowed.

    Example:
        >>> as_number(0.5, "the score")
        0.5
    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{name} is {shown(value)}, not a number")
        if finite and not math.isfinite(value):
            raise DataError(f"{name} is {value!r}, not a finite number")
        float(value)  # of an integer that is too long, an OverflowError
    except OverflowError as error:
        raise DataError(f"{name} is an integer that is too large") from error
    if value < least:
        raise DataError(f"{name} is {value!r}; the least is {least:g}")
    return value


def as_count(value: Any, name: str, *, least: int = 0) -> int:
    """Returns a whole number as it is; as `as_number`, and fractions are refused too."""
    if isinstance(value, float):
        raise DataError(f"{name} is {value!r}, not a whole number")
    return int(as_number(value, name, least=least))


def as_text(value: Any, name: str) -> str:
    """Returns text as it is, or raises a DataError."""
    if not isinstance(value, str):
        raise DataError(f"{name} is {shown(value)}, not text")
    return value


def as_object(value: Any, name: str) -> Mapping[str, Any]:
    """Returns an object as it is, or raises a DataError."""
    if not isinstance(value, Mapping):
        raise DataError(f"{name} is {shown(value)}, not an object")
    return value


def as_list(value: Any, name: str) -> list[Any]:
    """Returns a list (or a tuple, as one), or raises a DataError."""
    if not isinstance(value, list | tuple):
        raise DataError(f"{name} is {shown(value)}, not a list")
    return list(value)


def field_values(
    cls: type, values: Any, *, skip: Collection[str] = (), finite: bool = True
) -> dict[str, Any]:
    """Returns the arguments of a dataclass from a JSON object, each of its field's type.

    Args:
        cls: A dataclass whose fields are numbers, text, switches, or these or None.
        values: The object.
        skip: Fields of other types, which are returned as they are.
        finite: Whether NaN and infinity are refused.

    Raises:
        DataError: It is no object, a field without a default is missing, one is unknown, or a
            value has another type.

    Example:
        >>> field_values(Score, {"kl": 0.5})  # doctest: +SKIP
        {'kl': 0.5}
    """
    what = cls.__name__
    given = as_object(values, what)
    known = {each.name: each for each in fields(cls) if each.init}
    if unknown := [name for name in given if name not in known]:
        raise DataError(f"{what} has no field {shown(unknown[0])}; it has {', '.join(known)}")
    for name, each in known.items():
        needed = each.default is MISSING and each.default_factory is MISSING
        if needed and name not in given:
            raise DataError(f"{name!r} of {what} is missing")
    return {
        name: value
        if name in skip
        else _typed(value, str(known[name].type), f"{name!r} of {what}", finite)
        for name, value in given.items()
    }


def _typed(value: Any, annotation: str, name: str, finite: bool) -> Any:
    kinds = [part.strip() for part in annotation.split("|")]
    if value is None and "None" in kinds:
        return None
    if isinstance(value, bool) and "bool" in kinds:
        return value
    check: Callable[..., Any] = _CHECKS[next(kind for kind in kinds if kind in _CHECKS)]
    return check(value, name, finite=finite) if check is as_number else check(value, name)


def _as_switch(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise DataError(f"{name} is {shown(value)}, not true or false")
    return value


_CHECKS: Mapping[str, Callable[..., Any]] = {
    "float": as_number,
    "int": as_count,
    "str": as_text,
    "bool": _as_switch,
}


def shown(value: Any) -> str:
    """Returns a value as a message quotes it: one short line."""
    if isinstance(value, Mapping | list | tuple):
        return f"a JSON {'object' if isinstance(value, Mapping) else 'list'}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return "an integer that is too large"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def one_line(value: Any, *, most: int | None = None) -> str:
    """Returns a value as text on one line, without characters that only control a terminal.

    Args:
        value: A name from a file or a user.
        most: Characters, of which the last stands for the rest; None for all.

    Example:
        >>> one_line("a\\nname", most=5)
        'a na…'
    """
    text = "".join(each if each.isprintable() else " " for each in str(value))
    line = " ".join(text.split())
    return line if most is None or len(line) <= most else f"{line[: most - 1]}\u2026"
