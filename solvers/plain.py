"""A choice problem as plain values that ``json`` can write, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from solvers._checks import plain_values
from solvers.limits import Distinct, Limit
from solvers.problem import ChoiceProblem
from solvers.span import Span

__all__ = ["problem_from_dict", "problem_to_dict"]


def problem_to_dict(problem: ChoiceProblem) -> dict[str, Any]:
    """Convert a problem to plain values.

    Args:
        problem: The problem.

    Returns:
        What `problem_from_dict` turns back into an equal problem.

    Example:
        >>> problem_to_dict(ChoiceProblem((("a", "b"),), [0.0, 1.0]))["score"]
        [0.0, 1.0]
    """
    bounds = [dataclasses.asdict(bound) for bound in problem.distinct_bounds]
    return {
        "groups": [list(group) for group in problem.groups],
        "score": problem.score.tolist(),
        "resources": {name: column.tolist() for name, column in problem.resources.items()},
        "offsets": dict(problem.offsets),
        "limits": [dataclasses.asdict(limit) for limit in problem.limits],
        "pinned": [[group, option] for group, option in problem.pinned.items()],
        "spans": [dataclasses.asdict(span) for span in problem.spans],
        "distinct": bounds if len(bounds) > 1 else next(iter(bounds), None),
    }


@plain_values("a choice problem")
def problem_from_dict(values: Mapping[str, Any]) -> ChoiceProblem:
    """Build the problem that `problem_to_dict` wrote.

    Args:
        values: The plain values.

    Returns:
        The problem.

    Raises:
        ValueError: As for `ChoiceProblem`.
    """
    distinct = values["distinct"]
    if isinstance(distinct, Mapping):
        distinct = _bound(distinct)
    elif isinstance(distinct, list):
        distinct = tuple(map(_bound, distinct))
    return ChoiceProblem(
        tuple(tuple(group) for group in values["groups"]),
        np.array(values["score"], dtype=float),
        {name: np.array(column, dtype=float) for name, column in values["resources"].items()},
        offsets=values["offsets"],
        limits=tuple(Limit(**limit) for limit in values["limits"]),
        pinned={group: option for group, option in values["pinned"]},
        spans=tuple(Span(**span) for span in values["spans"]),
        distinct=distinct,
    )


def _bound(values: Mapping[str, Any]) -> Distinct:
    groups = values["groups"]
    return Distinct(**{**values, "groups": None if groups is None else tuple(groups)})
