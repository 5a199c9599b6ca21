"""SIGTERM and a lost terminal end a command as Ctrl-C does: all is cleaned up first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Sent by process managers, and when the terminal goes away.
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """The process was told to end by another signal than that of Ctrl-C.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP interrupt what runs, where nobody else handles or ignores them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in handled:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # a second one would interrupt the cleaning
    raise Terminated(number)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Returns the code a shell gives to a process that a signal ended: 130, 143 or 129."""
    return 128 + (interrupt.number if isinstance(interrupt, Terminated) else signal.SIGINT)
