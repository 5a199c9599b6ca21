"""Candidates that take the place of several groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Span:
    """A candidate that takes the place of several consecutive groups at once.

    Args:
        first: First group covered.
        last: Last group covered.
        label: Name of the candidate.
        score: Its score, in place of the scores of the covered groups.
        resources: What it uses, one value for each resource of the problem.

    Raises:
        ValueError: If it does not cover at least two groups.

    Example:
        >>> Span(2, 4, "fused", 0.1, {"memory": 5.0}).last
        4
    """

    first: int
    last: int
    label: str
    score: float
    resources: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last:
            raise ValueError(
                f"span {self.label!r} goes from group {self.first} to {self.last}; a span covers "
                "two groups or more, counted from 0; what replaces one group is an option of it"
            )
        object.__setattr__(self, "resources", dict(self.resources))
