"""Figures as they come: announced by whatever computes them, to those who listen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[dict[str, float]], None]
_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


def announce(values: Mapping[str, float]) -> None:
    """Passes figures to whoever listens; does nothing where nobody does.

    Args:
        values: Numbers by name.
    """
    for listener in _LISTENERS.get():
        listener(dict(values))


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Passes what is announced meanwhile to a listener.

    Args:
        listener: Called with each group of figures.
    """
    token = _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield
    finally:
        _LISTENERS.reset(token)
