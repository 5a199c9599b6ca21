"""A solver's answer, and how much is known about it."""

from __future__ import annotations

import dataclasses
import enum
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from solvers._checks import number, plain_values


class Status(enum.StrEnum):
    """How much is known about a solution.

    OPTIMAL means proved best, to within the requested gap. FEASIBLE means within the
    limits, while a better one may exist: the solver ran out of time.
    """

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A choice within every limit, with what is known about how good it is.

    Args:
        status: Whether the choice is proved best.
        choices: Index of the chosen option within its group, for each group; None for a group
            that a span covers.
        labels: Label of the chosen option or of the covering span, for each group.
        spans: Positions in the problem's `spans` of those chosen, in the order of the groups.
        objective: Total score.
        bound: No choice within the limits scores less than this.
        gap: ``objective - bound`` as a share of the objective's size.
        resources: Total of each resource, offset included.
        slack: Distance to each bound of each limit, keyed like ``memory <= 20``.
        seconds: Wall-clock time taken.
        solver: Name of the solver.
    """

    status: Status
    choices: tuple[int | None, ...]
    labels: tuple[str, ...]
    spans: tuple[int, ...] = ()
    objective: float
    bound: float
    gap: float
    resources: dict[str, float]
    slack: dict[str, float]
    seconds: float
    solver: str

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values that ``json`` can write.

        Returns:
            A dictionary with one entry for each field.
        """
        plain = dataclasses.asdict(self)
        plain["status"] = self.status.value
        for name in ("choices", "labels", "spans"):
            plain[name] = list(plain[name])
        return plain

    @classmethod
    @plain_values("a solution")
    def from_dict(cls, values: Mapping[str, Any]) -> Solution:
        """Build the solution that `to_dict` wrote.

        Args:
            values: The plain values.

        Returns:
            The solution.

        Raises:
            ValueError: If a value is missing, unknown or of another kind.
        """
        plain = {**values, "status": Status(values["status"])}
        plain["choices"] = tuple(
            None if choice is None else operator.index(choice) for choice in values["choices"]
        )
        plain["spans"] = tuple(operator.index(span) for span in values["spans"])
        plain["labels"] = tuple(map(str, values["labels"]))
        for name in ("objective", "bound", "gap", "seconds"):
            plain[name] = number(name, values[name])
        for name in ("resources", "slack"):
            plain[name] = {key: number(key, value) for key, value in values[name].items()}
        return cls(**plain)
