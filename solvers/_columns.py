"""Every candidate as one flat list: the options of all groups in order, then the spans."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """The candidates of a problem as arrays; a selection is a tuple of their positions.

    The first `options` columns are options, the rest spans. `allowed` is False for what the pins
    rule out, and `kinds` numbers what each bound on distinct choices counts. A selection covers
    each group once and is sorted by group.
    """

    options: int
    starts: IntArray
    first: IntArray
    last: IntArray
    score: FloatArray
    resources: Mapping[str, FloatArray]
    allowed: BoolArray
    kinds: tuple[IntArray, ...]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.starts)

    @property
    def lengths(self) -> IntArray:
        """Number of groups that each column covers."""
        return self.last - self.first + 1

    def least(self, values: FloatArray) -> tuple[int, ...]:
        """Find the allowed selection of least total.

        Args:
            values: One value for each column.

        Returns:
            The selection; the first of equal ones in each group.
        """
        usable = np.where(self.allowed, values, np.inf)
        own = self.options
        ends = [*self.starts[1:].tolist(), own]
        best = [
            start + int(usable[start:end].argmin())
            for start, end in zip(self.starts.tolist(), ends, strict=True)
        ]
        if own == len(values):
            return tuple(best)
        return self._shortest_cover(usable, best)

    def _shortest_cover(self, usable: FloatArray, best: list[int]) -> tuple[int, ...]:
        """Walk the groups from left to right; a span is an edge over several of them."""
        ending: dict[int, list[int]] = {}
        for column in range(self.options, len(usable)):
            if self.allowed[column]:
                ending.setdefault(int(self.last[column]), []).append(column)
        total, by = [0.0], [-1]
        for group in range(self.groups):
            reach, column = total[group] + usable[best[group]], best[group]
            for span in ending.get(group, ()):
                through = total[int(self.first[span])] + usable[span]
                if through < reach:
                    reach, column = through, span
            total.append(float(reach))
            by.append(column)
        picked, group = [], self.groups
        while group > 0:
            picked.append(by[group])
            group = int(self.first[by[group]])
        return tuple(reversed(picked))

    def extremes(self, resource: str, offset: float) -> tuple[float, float]:
        """Find the least and the greatest total of a resource, `offset` added."""
        values = self.resources[resource]
        low, high = list(self.least(values)), list(self.least(-values))
        return math.fsum([*values[low], offset]), math.fsum([*values[high], offset])

    def covered(self, selection: Iterable[int]) -> IntArray:
        """Count for each group how many of the selected columns cover it."""
        times = np.zeros(self.groups + 1, dtype=np.intp)
        for column in selection:
            times[self.first[column]] += 1
            times[self.last[column] + 1] -= 1
        return np.cumsum(times[:-1])

    def by_group(self, selection: Sequence[int]) -> IntArray:
        """Name the column that covers each group."""
        chosen = np.array(selection, dtype=np.intp)
        return np.repeat(chosen, self.lengths[chosen])

    def split(self, selection: Sequence[int]) -> tuple[tuple[int | None, ...], tuple[int, ...]]:
        """Write a selection as choices within groups and numbers of spans."""
        choices: list[int | None] = [None] * self.groups
        spans = []
        for column in selection:
            if column < self.options:
                group = int(self.first[column])
                choices[group] = int(column) - int(self.starts[group])
            else:
                spans.append(int(column) - self.options)
        return tuple(choices), tuple(spans)


def unpinned(first: IntArray, last: IntArray, pinned: Mapping[int, int]) -> BoolArray:
    """Mask what the pins allow: candidates that cover no pinned group, and the pinned options.

    Args:
        first: First group that each candidate covers.
        last: Last group that each candidate covers.
        pinned: Position of the pinned option, by group.
    """
    allowed = np.ones(len(first), dtype=bool)
    for group, position in pinned.items():
        allowed &= (group < first) | (group > last)
        allowed[position] = True
    return allowed


def joined(values: FloatArray, more: Sequence[float]) -> FloatArray:
    """Append values, and make the result read-only."""
    together = np.concatenate([values, np.array(more, dtype=np.float64)]) if more else values
    together.setflags(write=False)
    return together
