"""How far a total can go, and which candidates a limit or a best score leaves in play."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from solvers._columns import BoolArray, Columns, FloatArray
from solvers.limits import Limit

# A limit may be missed by this share of what the choices within it can change (solvers work to a
# feasibility tolerance) plus this share of the sum's terms (adding floats rounds).
_RANGE_TOLERANCE = 1e-9
_ROUNDING = 1e-13


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Excess:
    """How far each candidate lies above the least total that the candidates in use reach.

    Args:
        over: For each candidate, a number from 0 up; infinite for those not in use. The total of
            a selection is the sum of its `over`, plus `least`.
        terms: Numbers whose exact sum is the least total.
    """

    over: FloatArray
    terms: tuple[float, ...]

    @property
    def least(self) -> float:
        """The least total."""
        return math.fsum(self.terms)

    def room(self, *bound: float) -> float:
        """The exact distance, rounded once, from the least total to a sum of numbers."""
        return math.fsum([*bound, *(-term for term in self.terms)])


def excess(columns: Columns, values: FloatArray, usable: BoolArray) -> Excess | None:
    """Count values from the least total.

    Every group's least value is taken off, so that no digits are lost beside a large constant.
    Spans need more: the least total up to each group (the potentials of a shortest path).

    Args:
        columns: The candidates.
        values: One value for each.
        usable: Which of them are in use.

    Returns:
        What each candidate adds to the least total, or None if some group cannot be covered.
    """
    masked = np.where(usable, values, np.inf)
    own = slice(columns.options)
    least = np.minimum.reduceat(masked[own], columns.starts)
    spans = columns.options + np.flatnonzero(usable[columns.options :])
    if not spans.size:
        if not np.isfinite(least).all():
            return None
        over = np.full(len(values), np.inf)
        over[own] = masked[own] - least[columns.first[own]]
        return Excess(over=over, terms=tuple(least.tolist()))
    return _path_excess(columns, masked, least, spans.tolist())


def _path_excess(
    columns: Columns, masked: FloatArray, least: FloatArray, spans: list[int]
) -> Excess | None:
    ending: dict[int, list[int]] = {}
    for span in spans:
        ending.setdefault(int(columns.last[span]), []).append(span)
    total: list[Fraction | None] = [Fraction(0)]
    for group, own in enumerate(least.tolist()):
        before = total[group]
        ways = [] if before is None or math.isinf(own) else [before + Fraction(own)]
        for span in ending.get(group, ()):
            start = total[int(columns.first[span])]
            if start is not None:
                ways.append(start + Fraction(float(masked[span])))
        total.append(min(ways, default=None))
    if total[-1] is None:
        return None
    over = np.full(len(masked), np.inf)
    steps = np.array([_step(total, group, group) for group in range(columns.groups)])
    own_first = columns.first[: columns.options]
    reached = np.isfinite(steps[own_first]) & np.isfinite(masked[: columns.options])
    at = np.flatnonzero(reached)
    over[at] = np.maximum(masked[at] - steps[own_first[at]], 0.0)
    for span in spans:
        start, end = total[int(columns.first[span])], total[int(columns.last[span]) + 1]
        if start is not None and end is not None:
            over[span] = float(start + Fraction(float(masked[span])) - end)
    return Excess(over=over, terms=_parts(total[-1]))


def _step(total: list[Fraction | None], first: int, last: int) -> float:
    start, end = total[first], total[last + 1]
    return math.inf if start is None or end is None else float(end - start)


def _parts(exact: Fraction) -> tuple[float, ...]:
    """Write an exact sum of floats as two floats, which is all that differences need."""
    head = float(exact)
    return head, float(exact - Fraction(head))


def limit_tolerance(
    columns: Columns, sides: Iterable[Limit], resource: str, offset: float
) -> float:
    """Say by how much a total may miss its limits.

    Args:
        columns: The candidates.
        sides: The one-sided limits of the resource.
        resource: Its name.
        offset: What is used in any case.

    Returns:
        An absolute amount. A candidate that no choice within the limit can take, however large,
        does not widen it.
    """
    least, greatest = columns.extremes(resource, offset)
    reach, largest = greatest - least, 0.0
    for side in sides:
        low, high, bound = least, greatest, side.bound
        if side.at_most is None:
            low, high, bound = -greatest, -least, -bound
        # A bound that every choice meets says nothing of what the choices within it change.
        if bound < high:
            reach = min(reach, high - bound, max(bound - low, 0.0))
            largest = max(largest, abs(bound))
    values = np.abs(columns.resources[resource])
    smallest = np.minimum.reduceat(values[: columns.options], columns.starts)
    sizes = [float(smallest.sum()), abs(offset), largest, reach]
    return _RANGE_TOLERANCE * reach + _ROUNDING * sum(sizes)
