"""The display of a search: which of its stages runs, how far it is, and how long all will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from puzzle.progress.bars import Count, Display, hidden, redrawn, shown_by, widgets
from puzzle.progress.listeners import announce
from puzzle.progress.remaining import Timeline

# Seconds between two drawings of the bar, and between two lines of one stage where nothing redraws.
REDRAW, NEXT_LINE = 0.1, 600.0
# A bar has this many parts.
PARTS = 1000


class StageDisplay(Display):
    """One bar for all stages on a terminal and in a notebook; else a line for each stage.

    Args:
        title: What the stages belong to.
        names: The stages in their order.
        redraws: Whether there is a bar; by default where it can be redrawn.
        clock: Returns seconds.
    """

    def __init__(
        self,
        title: str,
        names: Sequence[str],
        *,
        redraws: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.clock = title, clock
        self.timeline = Timeline(names, clock=clock)
        self.redraws = redrawn() if redraws is None else redraws
        self._counts: list[tuple[Count, float]] = []
        self._worked = False
        self._bar: tqdm[Any] | None = None
        self._share, self._shown_at = 0.0, -1.0

    @contextmanager
    def running(self) -> Iterator[StageDisplay]:
        """Shows what is counted meanwhile, unless progress is hidden."""
        quiet = hidden()
        with shown_by(self):
            try:
                if self.redraws and not quiet:
                    # A terminal's bar has a width of its own, so that it stays where it is.
                    layout = "{bar} {desc}" if widgets() else "|{bar:20}| {desc}"
                    self._bar = tqdm(total=PARTS, bar_format=layout, dynamic_ncols=True)
                yield self
                self._end(quiet)
            finally:
                if self._bar is not None:
                    self._bar.close()

    def _end(self, quiet: bool) -> None:
        sentence = f"done in {duration(self.timeline.total)}"
        if self._bar is not None:
            self._bar.n = PARTS
            self._bar.set_description_str(f"{self.title}: {sentence}")
        elif not quiet:
            _write(f"{self.title}: {sentence}")

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Sets how long stages should take, by name."""
        self.timeline.expect(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Shows that a stage runs, and announces how long it took.

        Args:
            name: One of the stages.
        """
        timeline = self.timeline
        timeline.begin(name)
        self._counts, self._worked, self._shown_at = [], False, -1.0
        self._show(force=True)
        yield
        seconds = timeline.end(worked=self._worked)
        announce({"stage": timeline.at + 1, f"stage_seconds/{name}": seconds})

    def changed(self, count: Count) -> None:
        """Shows a count that has begun, or that has advanced."""
        if not any(each is count for each, _ in self._counts):
            self._counts.append((count, self.clock()))
        else:
            self._worked = True
        self._show()

    def ended(self, count: Count) -> None:
        """Forgets a count, and those within it."""
        places = [at for at, (each, _) in enumerate(self._counts) if each is count]
        if places:
            del self._counts[places[0] :]

    @property
    def counted_share(self) -> tuple[float, float]:
        """How much is done of what the stage counts, and the seconds that it took.

        What is counted within one unit of something else is a part of that unit.
        """
        share, size = 0.0, 1.0
        for count, _ in self._counts:
            share += size * count.share
            size /= count.total or 1
        started = self._counts[0][1] if self._counts else self.clock()
        return min(1.0, share), self.clock() - started

    @property
    def remaining(self) -> float | None:
        """The seconds that are left of all stages; None if that is not known yet."""
        return self.timeline.left(*self.counted_share)

    def _show(self, *, force: bool = False) -> None:
        now = self.clock()
        often = REDRAW if self.redraws else NEXT_LINE
        if not force and now - self._shown_at < often:
            return
        self._shown_at = now
        if self._bar is not None:
            self._draw()
        elif not self.redraws and not hidden():
            passed = f" after {duration(self.timeline.total)}" if self.timeline.at else ""
            left = self._left()
            _write(f"{self.title}{passed}: {self.position()}{f', {left}' if left else ''}")

    def _draw(self) -> None:
        assert self._bar is not None
        left = self.remaining
        # A bar does not go back where an estimate was too low.
        self._share = max(self._share, self.timeline.share(left))
        self._bar.n = round(PARTS * self._share)
        words = (clock_time(self.timeline.total), self._left(), self.position())
        self._bar.set_description_str(", ".join(word for word in words if word))

    def _left(self) -> str:
        left = self.remaining
        return "" if left is None else f"about {duration(max(1.0, left))} left"

    def position(self) -> str:
        """Returns which stage runs and how far it is: "stage 2 of 7: library, layer 3/30"."""
        timeline = self.timeline
        text = f"stage {timeline.at + 1} of {len(timeline.names)}: {timeline.names[timeline.at]}"
        text += "".join(f", {counted_text(count)}" for count, _ in self._counts)
        note = self._counts[-1][0].note if self._counts else ""
        return f"{text}, {note}" if note else text


def counted_text(count: Count) -> str:
    """Returns how far a count is, such as "layer 3/30" or "12/270 MB"."""
    total = "" if count.total is None else f"/{count.total}"
    if count.unit == "B":
        return f"{count.done / 1e6:.0f}{f'/{count.total / 1e6:.0f}' if count.total else ''} MB"
    return f"{count.unit} {count.done}{total}"


def _write(line: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def clock_time(seconds: float) -> str:
    """Returns seconds as a stopwatch shows them.

    Example:
        >>> clock_time(75.4), clock_time(3675)
        ('1:15', '1:01:15')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """Returns seconds in words, no more precise than they are useful.

    Example:
        >>> duration(42.4), duration(200), duration(8000)
        ('42 s', '3 min', '2.2 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
