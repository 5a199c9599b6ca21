"""Counting units of work: a bar of its own, or a part of the display of a whole search."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
# Where nothing redraws a line, seconds between two of them.
CALM = 60.0


class Display(ABC):
    """What shows the counts of a whole piece of work, in place of a bar for each."""

    @abstractmethod
    def changed(self, count: Count) -> None:
        """Shows a count that has begun, or that has advanced."""

    @abstractmethod
    def ended(self, count: Count) -> None:
        """Forgets a count."""


class Hidden(Display):
    """Shows nothing."""

    def changed(self, count: Count) -> None:
        """Shows nothing."""

    def ended(self, count: Count) -> None:
        """Forgets nothing."""


_DISPLAY: ContextVar[Display | None] = ContextVar("display", default=None)


@contextmanager
def shown_by(display: Display) -> Iterator[None]:
    """Lets a display show what is counted meanwhile; one that hides everything stays.

    Args:
        display: The display.
    """
    outer = _DISPLAY.get()
    token = _DISPLAY.set(outer if isinstance(outer, Hidden) else display)
    try:
        yield
    finally:
        _DISPLAY.reset(token)


def hidden() -> bool:
    """Returns whether nothing is to be shown."""
    return isinstance(_DISPLAY.get(), Hidden)


def displayed() -> bool:
    """Returns whether a display shows, or hides, what is counted: there are no other bars then."""
    return _DISPLAY.get() is not None


def widgets() -> bool:
    """Returns whether bars are the widgets of a notebook."""
    return any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)


def redrawn() -> bool:
    """Returns whether bars are redrawn: as widgets, or on a terminal."""
    return widgets() or (sys.stderr is not None and sys.stderr.isatty())


class Count:
    """Units of work, counted as they are done.

    Args:
        title: What is done.
        unit: What one of them is called.
        total: How many there are; None if that is not known.
        done: How many were done before.
        shown: Whether they are shown at all.
        leave: Whether a bar of its own stays when all is done.
    """

    def __init__(
        self,
        title: str,
        unit: str,
        total: int | None = None,
        *,
        done: int = 0,
        shown: bool = True,
        leave: bool = True,
    ) -> None:
        self.title, self.unit, self.total, self.done, self.note = title, unit, total, done, ""
        self.display = _DISPLAY.get() if shown else None
        calm = not redrawn()
        self._bar: tqdm[Any] | None = None
        if self.display is not None:
            self.display.changed(self)
        # Where lines stay, those of parts of something else would say little.
        elif shown and (leave or not calm):
            # tqdm reads the variable when it is imported, which may have been before it was set.
            interval = float(os.environ.get("TQDM_MININTERVAL", CALM))
            more: dict[str, Any] = {"mininterval": interval} if calm else {}
            self._bar = tqdm(total=total, desc=title, unit=unit, initial=done, leave=leave, **more)

    @property
    def share(self) -> float:
        """How much is done, between 0 and 1; 0 where the total is unknown."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    def update(self, units: int = 1, note: str = "") -> None:
        """Counts units.

        Args:
            units: How many more are done.
            note: What is written beside them.
        """
        self.done += units
        self.note = note or self.note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(units)
        if self.display is not None:
            self.display.changed(self)

    def __enter__(self) -> Count:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self.display is not None:
            self.display.ended(self)


def counted(
    units: Iterable[T],
    title: str,
    unit: str,
    total: int | None = None,
    *,
    shown: bool = True,
    leave: bool = True,
) -> Iterator[T]:
    """Yields units of work, and counts each when the next one is wanted.

    Args:
        units: The units.
        title: What is done.
        unit: What one of them is called.
        total: How many there are; by default the length of `units`, if that has one.
        shown: Whether they are shown.
        leave: Whether a bar of its own stays when all is done.
    """
    if total is None and isinstance(units, Sized):
        total = len(units)
    with Count(title, unit, total, shown=shown, leave=leave) as count:
        for each in units:
            yield each
            count.update()
