"""The choice problem: one option for each group, limits on sums, least total score."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# A limit may be missed by this share of what the choices can change (solvers work to a
# feasibility tolerance) plus this share of the sum's terms (adding floats rounds).
_SPAN_TOLERANCE = 1e-9
_ROUNDING = 1e-13


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


@dataclass(frozen=True, slots=True, eq=False)
class ChoiceProblem:
    """Pick exactly one option in each group, within limits, for the least total score.

    Options are numbered through all groups in order, so the arrays have one value for each
    option of group 0, then of group 1, and so on.

    Args:
        groups: Labels of the options, one tuple for each group.
        score: Score of each option; the total is minimised.
        resources: What each option uses, by resource name.
        offsets: What is used whatever is chosen, added to the totals; missing names mean 0.
        limits: Bounds on the totals.

    Raises:
        ValueError: If a group is empty or repeats a label, an array has the wrong size or holds
            a value that is not finite, or a limit or offset names an unknown resource.

    Example:
        >>> problem = ChoiceProblem(
        ...     groups=(("big", "small"),) * 2,
        ...     score=[0.0, 0.3, 0.0, 0.1],
        ...     resources={"memory": [4, 1, 4, 1]},
        ...     limits=(Limit("memory", at_most=5),),
        ... )
        >>> problem.evaluate([0, 1])
        (0.1, {'memory': 5.0})
    """

    groups: tuple[tuple[str, ...], ...]
    score: FloatArray
    resources: Mapping[str, FloatArray] = field(default_factory=dict)
    _: KW_ONLY
    offsets: Mapping[str, float] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        fix = object.__setattr__
        fix(self, "groups", _checked_groups(self.groups))
        fix(self, "score", self._checked_values("score", self.score))
        fix(
            self,
            "resources",
            {
                name: self._checked_values(f"resource {name!r}", values)
                for name, values in self.resources.items()
            },
        )
        fix(self, "offsets", {name: float(value) for name, value in self.offsets.items()})
        fix(self, "limits", tuple(self.limits))
        for name, value in self.offsets.items():
            self._require_resource(name, "offset")
            if not math.isfinite(value):
                raise ValueError(f"offset of {name!r} is {value}; give a finite number")
        for limit in self.limits:
            self._require_resource(limit.resource, "limit")

    @property
    def size(self) -> int:
        """Number of options in all groups together."""
        return sum(len(group) for group in self.groups)

    @property
    def starts(self) -> npt.NDArray[np.intp]:
        """Position of the first option of each group in the arrays."""
        return np.cumsum([0, *(len(group) for group in self.groups[:-1])], dtype=np.intp)

    def evaluate(self, choices: Sequence[int]) -> tuple[float, dict[str, float]]:
        """Compute the objective and the resource totals of a choice.

        Args:
            choices: Index of the chosen option within its group, for each group.

        Returns:
            The total score, and the total of each resource with its offset.

        Raises:
            ValueError: If there is not one valid index for each group.
        """
        chosen = self.starts + np.array(self._checked_choices(choices), dtype=np.intp)
        totals = {
            name: math.fsum([*values[chosen], self.offsets.get(name, 0.0)])
            for name, values in self.resources.items()
        }
        return math.fsum(self.score[chosen]), totals

    def labels(self, choices: Sequence[int]) -> tuple[str, ...]:
        """Name the chosen options.

        Args:
            choices: Index of the chosen option within its group, for each group.

        Returns:
            One label for each group.

        Raises:
            ValueError: If there is not one valid index for each group.
        """
        checked = self._checked_choices(choices)
        return tuple(group[index] for group, index in zip(self.groups, checked, strict=True))

    def with_limits(self, limits: Iterable[Limit]) -> ChoiceProblem:
        """Copy the problem with other limits.

        Args:
            limits: The limits of the copy, replacing all present ones.

        Returns:
            The copy.

        Raises:
            ValueError: If a limit names an unknown resource.
        """
        return dataclasses.replace(self, limits=tuple(limits))

    def bounds(self, resource: str) -> tuple[float, float]:
        """Find the range a resource total can take when nothing is limited.

        Args:
            resource: Name of the resource.

        Returns:
            The least and the greatest total, offset included; both are reached by some choice.

        Raises:
            ValueError: If there is no such resource.
        """
        self._require_resource(resource, "bounds")
        values, offset = self.resources[resource], self.offsets.get(resource, 0.0)
        least = np.minimum.reduceat(values, self.starts)
        greatest = np.maximum.reduceat(values, self.starts)
        return math.fsum([*least, offset]), math.fsum([*greatest, offset])

    def tolerance(self, resource: str) -> float:
        """Say by how much a total may miss a limit and still count as within it.

        Args:
            resource: Name of the resource.

        Returns:
            An absolute amount, about 1e-9 of what the choices can change.
        """
        least, greatest = self.bounds(resource)
        largest = np.maximum.reduceat(np.abs(self.resources[resource]), self.starts)
        terms = abs(self.offsets.get(resource, 0.0)) + float(largest.sum())
        return _SPAN_TOLERANCE * (greatest - least) + _ROUNDING * terms

    def _checked_values(self, what: str, values: npt.ArrayLike) -> FloatArray:
        array = np.array(values, dtype=np.float64)
        if array.shape != (self.size,):
            raise ValueError(
                f"{what} has shape {array.shape}; give one value for each of the {self.size} "
                f"options of the {len(self.groups)} groups, that is shape ({self.size},)"
            )
        broken = np.flatnonzero(~np.isfinite(array))
        if broken.size:
            at = int(broken[0])
            group = int(np.searchsorted(self.starts, at, side="right")) - 1
            label = self.groups[group][at - int(self.starts[group])]
            raise ValueError(
                f"{what} of option {label!r} of group {group} is {array[at]} ({broken.size} such "
                "values in all); give finite numbers, or leave the option out of its group"
            )
        array.setflags(write=False)
        return array

    def _checked_choices(self, choices: Sequence[int]) -> list[int]:
        checked = [operator.index(choice) for choice in choices]
        if len(checked) != len(self.groups):
            raise ValueError(
                f"{len(checked)} choices given for {len(self.groups)} groups; give one for each"
            )
        for at, (choice, group) in enumerate(zip(checked, self.groups, strict=True)):
            if not 0 <= choice < len(group):
                raise ValueError(
                    f"choice {choice} for group {at} is out of range; give 0 to {len(group) - 1}"
                )
        return checked

    def _require_resource(self, name: str, what: str) -> None:
        if name in self.resources:
            return
        near = difflib.get_close_matches(name, list(self.resources), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(map(repr, self.resources)) or "none"
        raise ValueError(f"{what} on unknown resource {name!r}; known resources: {known}{hint}")


def _checked_groups(groups: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    checked = []
    for at, group in enumerate(groups):
        # A string is an iterable of strings too, and would quietly become single letters.
        if isinstance(group, str):
            raise ValueError(f"group {at} is the string {group!r}; give a tuple of labels")
        labels = tuple(str(label) for label in group)
        if not labels:
            raise ValueError(f"group {at} has no options; give at least one, or leave it out")
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(
                f"group {at} has label {twice[0]!r} more than once; make labels unique"
            )
        checked.append(labels)
    if not checked:
        raise ValueError("there are no groups; give at least one group of options")
    return tuple(checked)


class Status(enum.StrEnum):
    """How much is known about a solution.

    OPTIMAL means proved best, to within the gap that was asked for. FEASIBLE means within the
    limits, while a better one may exist: the solver ran out of time.
    """

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A choice within every limit, with what is known about how good it is.

    Args:
        status: Whether the choice is proved best.
        choices: Index of the chosen option within its group, for each group.
        labels: Label of the chosen option, for each group.
        objective: Total score.
        bound: No choice within the limits scores less than this.
        gap: ``objective - bound`` as a share of the objective's size.
        resources: Total of each resource, offset included.
        slack: Distance to each bound of each limit, keyed like ``memory <= 20``.
        seconds: Wall-clock time taken.
        solver: Name of the solver.
    """

    status: Status
    choices: tuple[int, ...]
    labels: tuple[str, ...]
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
        plain["choices"], plain["labels"] = list(self.choices), list(self.labels)
        return plain
