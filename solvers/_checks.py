"""Refuse malformed problems by name, before anything is solved."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from solvers._columns import Columns, FloatArray, IntArray
from solvers.limits import Distinct

if TYPE_CHECKING:
    from solvers.span import Span

Groups = tuple[tuple[str, ...], ...]


@contextmanager
def plain_values(what: str) -> Iterator[None]:
    """Turn what values of an unexpected shape raise into a ValueError that names them."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"this is not {what}: {error} is missing") from error
    except (AttributeError, ArithmeticError, IndexError, RecursionError, TypeError) as error:
        raise ValueError(f"this is not {what}: {error}") from error


def number(name: str, given: Any) -> float:
    """Check that a plain value is a number, which may be infinite."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError(f"{name} is {repr(given)[:60]}; give a number")
    return float(given)


def groups(given: Iterable[Iterable[str]]) -> Groups:
    """Normalise the labels of all groups."""
    checked = []
    for at, group in enumerate(given):
        # A string is an iterable of strings too, and would quietly become single letters.
        if isinstance(group, str):
            raise ValueError(f"group {at} is the string {group!r}; give a tuple of labels")
        labels = tuple(str(label) for label in group)
        if not labels:
            raise ValueError(f"group {at} has no options; give at least one, or leave it out")
        if len(set(labels)) < len(labels):
            twice = sorted({label for label in labels if labels.count(label) > 1})
            raise ValueError(
                f"group {at} has label {twice[0]!r} more than once; make labels unique"
            )
        checked.append(labels)
    if not checked:
        raise ValueError("there are no groups; give at least one group of options")
    return tuple(checked)


def values(what: str, given: npt.ArrayLike, names: Groups) -> FloatArray:
    """Copy one value for each option into a read-only array of finite floats."""
    array = np.array(given, dtype=np.float64)
    size = sum(len(group) for group in names)
    if array.shape != (size,):
        raise ValueError(
            f"{what} has shape {array.shape}; give one value for each of the {size} "
            f"options of the {len(names)} groups, that is shape ({size},)"
        )
    broken = np.flatnonzero(~np.isfinite(array))
    if broken.size:
        at = int(broken[0])
        ends = np.cumsum([len(group) for group in names])
        group = int(np.searchsorted(ends, at, side="right"))
        label = names[group][at - int(ends[group])]  # negative, from the end of the group
        raise ValueError(
            f"{what} of option {label!r} of group {group} is {array[at]} ({broken.size} such "
            "values in all); give finite numbers, or leave the option out of its group"
        )
    array.setflags(write=False)
    return array


def pins(given: Mapping[Any, int | str], names: Groups) -> dict[int, int]:
    """Resolve pinned groups, negative ones from the end, to indices of options."""
    pinned: dict[int, int] = {}
    for key, option in given.items():
        group = operator.index(key)
        if not -len(names) <= group < len(names):
            raise ValueError(
                f"pinned group {group} does not exist; give {-len(names)} to {len(names) - 1}"
            )
        group %= len(names)
        index = _option(option, group, names[group])
        if pinned.get(group, index) != index:
            raise ValueError(f"group {group} is pinned to two options; drop one of the pins")
        pinned[group] = index
    return dict(sorted(pinned.items()))


def _option(option: int | str, group: int, labels: tuple[str, ...]) -> int:
    if isinstance(option, str):
        if option not in labels:
            known = ", ".join(map(repr, labels))
            raise ValueError(
                f"group {group} is pinned to {option!r}, which it lacks; its options: {known}"
            )
        return labels.index(option)
    index = operator.index(option)
    if not 0 <= index < len(labels):
        raise ValueError(
            f"group {group} is pinned to option {index}; give 0 to {len(labels) - 1} or a label"
        )
    return index


def span(given: Span, groups: int, resources: Mapping[str, FloatArray]) -> None:
    """Check one span against the problem that it belongs to."""
    what = f"span {given.label!r} of groups {given.first} to {given.last}"
    if given.last >= groups:
        raise ValueError(f"{what} goes past the last group, {groups - 1}")
    if not math.isfinite(given.score):
        raise ValueError(f"score of {what} is {given.score}; give a finite number")
    if set(given.resources) != set(resources):
        raise ValueError(
            f"{what} has resources {sorted(given.resources)}; give one value for each of the "
            f"problem's: {sorted(resources)}"
        )
    for name, value in given.resources.items():
        if not math.isfinite(value):
            raise ValueError(f"resource {name!r} of {what} is {value}; give a finite number")


def distinct(
    given: Distinct | int | Sequence[Distinct] | None, names: Groups
) -> Distinct | tuple[Distinct, ...] | None:
    """Normalise the bounds on distinct choices and check the groups they count."""
    bounds = distinct_bounds(given)
    for bound in bounds:
        for group in bound.groups or ():
            if not -len(names) <= group < len(names):
                raise ValueError(
                    f"distinct choices count group {group}, which does not exist; give "
                    f"{-len(names)} to {len(names) - 1}"
                )
    return bounds if len(bounds) > 1 else next(iter(bounds), None)


def distinct_bounds(given: Distinct | int | Sequence[Distinct] | None) -> tuple[Distinct, ...]:
    """List the bounds on distinct choices."""
    if given is None:
        return ()
    if isinstance(given, Distinct):
        return (given,)
    if not isinstance(given, Sequence):
        return (Distinct(given),)
    if wrong := [bound for bound in given if not isinstance(bound, Distinct)]:
        raise ValueError(f"distinct holds {wrong[0]!r}; give a number, a Distinct, or several")
    return tuple(given)


def kind_codes(bound: Distinct, names: Groups, spans: int) -> IntArray:
    """Number the kind of each option, -1 for options and spans that do not count."""
    codes: dict[str, int] = {}
    kinds = []
    counted = set(range(len(names)))
    if bound.groups is not None:
        counted = {group % len(names) for group in bound.groups}
    for group, labels in enumerate(names):
        for label in labels:
            kind = bound.kind(label) if group in counted else None
            kinds.append(-1 if kind is None else codes.setdefault(kind, len(codes)))
    return np.array(kinds + [-1] * spans, dtype=np.intp)


def selection(
    choices: Sequence[int | None], spans: Sequence[int], names: Groups, columns: Columns
) -> tuple[int, ...]:
    """Turn choices and spans into columns, sorted by group, that cover each group once."""
    if len(choices) != len(names):
        raise ValueError(f"{len(choices)} choices given for {len(names)} groups; give one for each")
    picked = []
    for at, (choice, group) in enumerate(zip(choices, names, strict=True)):
        if choice is None:
            continue
        index = operator.index(choice)
        if not 0 <= index < len(group):
            raise ValueError(
                f"choice {index} for group {at} is out of range; give 0 to {len(group) - 1}"
            )
        picked.append(int(columns.starts[at]) + index)
    last = len(columns.first) - columns.options - 1
    for number in map(operator.index, spans):
        if not 0 <= number <= last:
            raise ValueError(f"span {number} does not exist; there are {last + 1} spans")
        picked.append(columns.options + number)
    times = columns.covered(picked)
    if (times != 1).any():
        at = int(np.flatnonzero(times != 1)[0])
        raise ValueError(
            f"group {at} is covered {int(times[at])} times; choose one of its options, or None "
            "and one span over it"
        )
    return tuple(sorted(picked, key=lambda column: int(columns.first[column])))
