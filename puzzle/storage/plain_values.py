"""Values of numpy, torch and pandas as Python's own, which JSON, hashes and seeds need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from puzzle.errors import PuzzleError, SettingError


def plain(value: Any) -> Any:
    """Returns a value with the scalars and arrays in it as Python's own.

    A search in a notebook is often fed from `np.array([1, 8, 32])` or a data frame: 8 is 8, whoever
    counted it. Only numbers, strings and containers are converted; whether the value is allowed is
    for the caller to say.

    Args:
        value: A scalar, an array, or a list, tuple or mapping of them, nested at will; anything
            else is returned as it is.

    Example:
        >>> plain(np.int64(8)), plain({"kl": np.float32(0.5)})
        (8, {'kl': 0.5})
    """
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    # Scalars and arrays of numpy, torch and pandas all have it.
    convert = getattr(value, "tolist", None)
    return convert() if callable(convert) and not isinstance(value, type) else value


def make_plain(settings: Any, *names: str) -> None:
    """Replaces fields of a frozen dataclass by `plain` values; for its `__post_init__`.

    Args:
        settings: The instance.
        names: The fields; all if none is named.
    """
    for name in names or [field.name for field in fields(settings)]:
        object.__setattr__(settings, name, plain(getattr(settings, name)))


def count_of(
    name: str, value: Any, *, least: int = 1, error: type[PuzzleError] = SettingError
) -> int:
    """Returns a whole number as an int of Python's own, or raises.

    Args:
        name: What the caller calls it.
        value: An integer of Python, numpy or torch; no bool and no float.
        least: The least that is allowed.
        error: The error to raise.

    Example:
        >>> count_of("windows", np.int64(32))
        32
    """
    given = plain(value)
    if not isinstance(given, int) or isinstance(given, bool) or given < least:
        raise error(f"{name}={given!r}; allowed: integers of {least} or more")
    return given
