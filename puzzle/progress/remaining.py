"""How long work will still take: estimates of its stages, corrected by those that have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

# How much of all estimates has to be measured until the measured speed counts as much as they do.
PRIOR = 0.1


class Timeline:
    """Stages in their order, how long each should take and how long those that ended took.

    Args:
        names: The stages.
        clock: Returns seconds.

    Example:
        >>> now = [0.0]
        >>> timeline = Timeline(["fit", "score"], clock=lambda: now[0])
        >>> timeline.expect({"fit": 10.0, "score": 30.0})
        >>> timeline.begin("fit")
        >>> timeline.left()
        40.0
    """

    def __init__(
        self, names: Sequence[str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.names, self.clock = tuple(names), clock
        self.started = self.since = clock()
        self.at = -1
        self._estimates: dict[str, float] = {}
        self._taken: dict[str, float] = {}

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Sets how long stages should take, by name; what is not named takes nothing."""
        self._estimates = {name: seconds.get(name, 0.0) for name in self.names}

    def begin(self, name: str) -> None:
        """Begins a stage."""
        self.at, self.since = self.names.index(name), self.clock()

    def end(self, *, worked: bool) -> float:
        """Ends the stage that runs and returns its seconds.

        Args:
            worked: Whether it did anything; one whose result was there tells nothing of speed.
        """
        seconds = self.clock() - self.since
        if worked:
            self._taken[self.names[self.at]] = seconds
        return seconds

    @property
    def total(self) -> float:
        """The seconds since the start."""
        return self.clock() - self.started

    @property
    def slowness(self) -> float:
        """How many times as long as estimated stages take, by those that have ended."""
        prior = PRIOR * sum(self._estimates.values())
        known = [name for name in self._taken if self._estimates.get(name)]
        taken = sum(self._taken[name] for name in known)
        estimated = sum(self._estimates[name] for name in known)
        return (prior + taken) / (prior + estimated) if prior else 1.0

    def left(self, share: float = 0.0, seconds: float = 0.0) -> float | None:
        """Returns the seconds that are left of all stages; None before there are estimates.

        Args:
            share: How much is done of what the running stage counts.
            seconds: How long that took.
        """
        if not self._estimates or self.at < 0:
            return None
        slowness, own = self.slowness, self._estimates[self.names[self.at]]
        by_estimate = max(0.0, slowness * own - (self.clock() - self.since))
        by_count = seconds * (1 - share) / share if share > 0 else 0.0
        # A stage may count several times; the further a count, the more it says of the stage.
        running = share * by_count + (1 - share) * max(by_count, by_estimate)
        later = sum(self._estimates[name] for name in self.names[self.at + 1 :])
        return running + slowness * later

    def share(self, left: float | None) -> float:
        """Returns how much of all work is done, between 0 and 1."""
        if left is None:
            return 0.0
        return self.total / (self.total + left) if self.total + left > 0 else 1.0
