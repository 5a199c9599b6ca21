"""ChoiceProblem, Limit, Solution: one option from each group, at least total score."""

from __future__ import annotations

import difflib
import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on the total of a resource, offset included.

    Args:
        resource: Name of the resource.
        at_most: Upper bound.
        at_least: Lower bound.

    Raises:
        ValueError: No bound is given, one is not finite, or the lower exceeds the upper.

    Example:
        >>> str(Limit("memory", at_most=6.0))
        'memory <= 6'
    """

    resource: str
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        given = [bound for bound in (self.at_least, self.at_most) if bound is not None]
        if not given:
            raise ValueError(f"limit on {self.resource!r} has no bound; give at_most or at_least")
        if not all(math.isfinite(bound) for bound in given):
            raise ValueError(f"limit on {self.resource!r} is {given}; allowed: finite numbers")
        if len(given) == 2 and given[0] > given[1]:
            raise ValueError(
                f"limit on {self.resource!r}: at_least={given[0]} exceeds at_most={given[1]}"
            )

    def __str__(self) -> str:
        low = f"{self.at_least:.6g} <= " if self.at_least is not None else ""
        high = f" <= {self.at_most:.6g}" if self.at_most is not None else ""
        return f"{low}{self.resource}{high}"


@dataclass(frozen=True, slots=True, eq=False)
class ChoiceProblem:
    """Choose one option of every group so that the summed score is least within the limits.

    Args:
        groups: Option labels per group; n options in all.
        score: Score of each option, shape (n,), in group order.
        resources: What each option takes of each resource, shapes (n,).
        limits: Bounds on totals.
        offsets: What is taken whatever is chosen, by resource; 0 where not named.

    Raises:
        ValueError: Sizes disagree, a number is NaN or infinite (it is named), a group is empty
            or repeats a label, or a limit names an unknown resource.

    Example:
        >>> problem = ChoiceProblem((("a", "b"), ("c",)), [0, 1, 2], {"cost": [5, 1, 1]})
        >>> problem.evaluate((1, 0))
        (3.0, {'cost': 2.0})
    """

    groups: tuple[tuple[str, ...], ...]
    score: Array
    resources: Mapping[str, Array]
    limits: tuple[Limit, ...] = ()
    offsets: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups = tuple(tuple(group) for group in self.groups)
        object.__setattr__(self, "groups", groups)
        if not groups:
            raise ValueError("the problem has no groups; give at least one")
        for index, group in enumerate(groups):
            if not group or len(set(group)) != len(group):
                raise ValueError(f"group {index} is {group}; give one or more distinct labels")
        object.__setattr__(self, "score", self._column("score", self.score))
        columns = {name: self._column(name, values) for name, values in self.resources.items()}
        object.__setattr__(self, "resources", columns)
        for name, value in self.offsets.items():
            self._known(name, "offset")
            if not math.isfinite(value):
                raise ValueError(f"offset of {name!r} is {value}; allowed: finite numbers")
        object.__setattr__(self, "limits", tuple(self.limits))
        for limit in self.limits:
            self._known(limit.resource, "limit")

    def _known(self, name: str, what: str) -> None:
        if name not in self.resources:
            close = difflib.get_close_matches(name, self.resources, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"{what} on {name!r}{hint}; known: {sorted(self.resources)}")

    def _column(self, name: str, values: Any) -> Array:
        column = np.array(values, dtype=np.float64)
        size = sum(map(len, self.groups))
        if column.shape != (size,):
            raise ValueError(f"{name} has shape {column.shape}; the groups have {size} options")
        wrong = np.flatnonzero(~np.isfinite(column))
        if wrong.size:
            group, label = self._option(int(wrong[0]))
            raise ValueError(
                f"{name} of option {label!r} of group {group} is {column[wrong[0]]}; "
                "allowed: finite numbers"
            )
        column.flags.writeable = False
        return column

    def _option(self, position: int) -> tuple[int, str]:
        for index, group in enumerate(self.groups):
            if position < len(group):
                return index, group[position]
            position -= len(group)
        raise IndexError(position)

    def starts(self) -> NDArray[np.int64]:
        """Returns the position of the first option of each group, shape (groups,)."""
        return np.cumsum([0, *(len(group) for group in self.groups[:-1])])

    def split(self, column: Array) -> list[Array]:
        """Returns a column of options cut by group."""
        return np.split(column, self.starts()[1:])

    def evaluate(self, choices: Sequence[int]) -> tuple[float, dict[str, float]]:
        """Returns the total score and the total of each resource, offsets included.

        Args:
            choices: For each group, the index of its option.
        """
        picked = self.starts() + np.asarray(choices)
        totals = {
            name: float(column[picked].sum()) + self.offsets.get(name, 0.0)
            for name, column in self.resources.items()
        }
        return float(self.score[picked].sum()), totals

    def reach(self, resource: str) -> tuple[float, float]:
        """Returns the least and the greatest total of a resource over all choices."""
        parts = self.split(self.resources[resource])
        offset = self.offsets.get(resource, 0.0)
        low = float(sum(part.min() for part in parts)) + offset
        return low, float(sum(part.max() for part in parts)) + offset

    def with_limits(self, limits: Sequence[Limit]) -> ChoiceProblem:
        """Returns the same problem under other limits."""
        return replace(self, limits=tuple(limits))


class Status(enum.Enum):
    """How good a solution is known to be."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A choice that meets all limits.

    Args:
        status: OPTIMAL, or FEASIBLE where a time limit or a gap stopped the proof.
        choices: Index of the option of each group.
        labels: Their labels.
        objective: Total score.
        bound: No choice within the limits scores less than this.
        gap: (objective - bound) / |objective|.
        resources: Totals, offsets included.
        slack: Distance to each bound of each limit, by the limit's text.
        seconds: Wall time of the solve.
        solver: Its name.
    """

    status: Status
    choices: tuple[int, ...]
    labels: tuple[str, ...]
    objective: float
    bound: float
    gap: float
    resources: Mapping[str, float]
    slack: Mapping[str, float]
    seconds: float
    solver: str

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **values,
            "status": self.status.value,
            "choices": list(self.choices),
            "labels": list(self.labels),
            "resources": dict(self.resources),
            "slack": dict(self.slack),
        }
