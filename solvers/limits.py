"""What a choice is limited by: bounds on totals, and how many kinds of option it may mix."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound, from above, from below or both, on the total of one resource.

    Args:
        resource: Name of the resource.
        at_most: Largest total allowed, None for no such bound.
        at_least: Smallest total allowed, None for no such bound.

    Raises:
        ValueError: If no bound is given, one is not finite, or `at_least` exceeds `at_most`.

    Example:
        >>> Limit("memory", at_most=20.0).text
        'memory <= 20'
    """

    resource: str
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        given = {"at_most": self.at_most, "at_least": self.at_least}
        bounds = {name: float(bound) for name, bound in given.items() if bound is not None}
        if not bounds:
            raise ValueError(
                f"limit on {self.resource!r} has no bound; give at_most, at_least or both"
            )
        for name, bound in bounds.items():
            if not math.isfinite(bound):
                raise ValueError(
                    f"limit on {self.resource!r}: {name} is {bound}; give a finite number, "
                    "or leave it out for no bound"
                )
            object.__setattr__(self, name, bound)
        if len(bounds) == 2 and bounds["at_least"] > bounds["at_most"]:
            raise ValueError(
                f"limit on {self.resource!r}: at_least {bounds['at_least']:g} exceeds at_most "
                f"{bounds['at_most']:g}; swap them or widen the range"
            )

    def sides(self) -> tuple[Limit, ...]:
        """Split the limit into one-sided limits.

        Returns:
            One or two limits with a single bound each.
        """
        if self.at_most is None or self.at_least is None:
            return (self,)
        return (
            Limit(self.resource, at_most=self.at_most),
            Limit(self.resource, at_least=self.at_least),
        )

    @property
    def bound(self) -> float:
        """The bound of a one-sided limit."""
        if self.at_most is not None and self.at_least is not None:
            raise ValueError(f"limit {self.text!r} has two bounds; take its sides first")
        bound = self.at_most if self.at_most is not None else self.at_least
        assert bound is not None
        return bound

    def moved(self, by: float) -> Limit:
        """Loosen the limit on every side.

        Args:
            by: How far each bound moves outwards; negative tightens.

        Returns:
            The other limit.

        Raises:
            ValueError: If tightening leaves no room between the bounds.

        Example:
            >>> Limit("memory", at_most=20.0).moved(1.0).text
            'memory <= 21'
        """
        most = None if self.at_most is None else self.at_most + by
        least = None if self.at_least is None else self.at_least - by
        return Limit(self.resource, at_most=most, at_least=least)

    @property
    def text(self) -> str:
        """The limit as an inequality, for instance ``memory <= 20``."""
        parts = [] if self.at_most is None else [f"{self.resource} <= {self.at_most:.12g}"]
        if self.at_least is not None:
            parts.append(f"{self.resource} >= {self.at_least:.12g}")
        return " and ".join(parts)

    def slack(self, total: float) -> float:
        """Measure how far a total is inside the limit.

        Args:
            total: Total of the resource.

        Returns:
            Distance to the nearer bound, negative when that bound is broken.
        """
        above = math.inf if self.at_most is None else self.at_most - total
        below = math.inf if self.at_least is None else total - self.at_least
        return min(above, below)


@dataclass(frozen=True, slots=True)
class Distinct:
    """A bound on how many different kinds of option the groups may mix.

    Options of different groups are of one kind when their labels are equal, or when `kinds` maps
    both labels to the same kind. Groups covered by a span do not count.

    Args:
        at_most: Number of kinds allowed; 1 means the same choice in all groups.
        groups: Groups that count, negative ones from the end; None for all.
        kinds: Kind of each label, None for labels that do not count; None where each label is a
            kind of its own.

    Raises:
        ValueError: If `at_most` is below 1.

    Example:
        >>> Distinct(1).text
        'at most 1 distinct choice'
    """

    at_most: int
    groups: tuple[int, ...] | None = None
    kinds: Mapping[str, str | None] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.at_most, bool) or operator.index(self.at_most) < 1:
            raise ValueError(f"distinct choices: at_most is {self.at_most}; give 1 or more")
        if self.groups is not None:
            groups = tuple(operator.index(group) for group in _iterable(self.groups))
            object.__setattr__(self, "groups", groups)
        if self.kinds is not None:
            object.__setattr__(self, "kinds", dict(self.kinds))

    @property
    def text(self) -> str:
        """The bound in words."""
        return f"at most {self.at_most} distinct choice{'s' if self.at_most > 1 else ''}"

    def kind(self, label: str) -> str | None:
        """Name the kind of an option.

        Args:
            label: Label of the option.

        Returns:
            Its kind; None if the option does not count.

        Raises:
            ValueError: If `kinds` is given and does not hold the label.
        """
        if self.kinds is None:
            return label
        if label not in self.kinds:
            raise ValueError(f"distinct choices: kinds has no entry for label {label!r}; add one")
        return self.kinds[label]


def _iterable(groups: Iterable[int] | int) -> Iterable[int]:
    return (groups,) if isinstance(groups, int) else groups
