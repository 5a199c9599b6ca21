"""Printing that cannot make finished work fail: closed pipes, and terminals that are ASCII only."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from puzzle.progress.bars import Hidden, shown_by


class Forgiving:
    """A text stream whose reader may go away: what is written then is dropped.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, with escapes for what the stream's encoding lacks."""
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except BrokenPipeError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Lets the rest go nowhere, what Python writes when it ends included."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def calm_progress(*, quiet: bool) -> Iterator[None]:
    """Hides progress with -q; bars of other libraries get a line a minute if nothing redraws them.

    tqdm reads these variables when it is first imported, as do the workers that are started.

    Args:
        quiet: Whether they are hidden.
    """
    wanted = {}
    if quiet:
        wanted["TQDM_DISABLE"] = "1"
    elif sys.stderr is None or not sys.stderr.isatty():
        wanted["TQDM_MININTERVAL"] = "60"
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with shown_by(Hidden()) if quiet else nullcontext():
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Makes stdout and stderr forgiving, for progress bars and messages as for results."""
    before = sys.stdout, sys.stderr
    if sys.stdout is not None:
        sys.stdout = Forgiving(sys.stdout)
    if sys.stderr is not None:
        sys.stderr = Forgiving(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
