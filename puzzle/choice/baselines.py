"""Simpler ways to choose within the limits, to compare with: uniform, greedy, random, whole layers.

All take the program that the solver would get, and return block labels, one per layer. They are
for programs that limit one resource from above.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from puzzle.errors import ConstraintError
from solvers import ChoiceProblem, Limit, solve

Labels = tuple[str, ...]


def uniform(problem: ChoiceProblem, ladder: Sequence[str]) -> Labels:
    """Returns the same block in all layers, or two neighbours of a ladder, evenly mixed.

    Args:
        problem: The program.
        ladder: Labels that every layer allows, from the most to the least costly.

    Raises:
        ConstraintError: Not even the last block in all layers is within the limit.
    """
    depth = len(problem.groups)
    for high, low in zip(ladder, [*ladder[1:], ladder[-1]], strict=True):
        for count in range(depth, -1, -1):
            # The larger block in `count` layers, spread evenly.
            large = {(2 * i + 1) * depth // (2 * count) for i in range(count)}
            labels = tuple(high if layer in large else low for layer in range(depth))
            if within(problem, labels):
                return labels
    raise ConstraintError(f"{ladder[-1]} in all layers is beyond the limit")


def greedy(problem: ChoiceProblem) -> Labels:
    """Returns what is left when the change of least score per saved resource is made, repeatedly.

    Starts from the first option of every layer, the parent's.

    Raises:
        ConstraintError: No changes are left and the limit is not met.
    """
    columns, cost = _resource(problem)
    at = [0] * len(problem.groups)
    while not within(problem, labels := _labels(problem, at)):
        best: tuple[float, int, int] | None = None
        for layer, now in enumerate(at):
            for option in range(len(problem.groups[layer])):
                old, new = columns[layer] + now, columns[layer] + option
                if (saved := cost[old] - cost[new]) > 0:
                    price = (problem.score[new] - problem.score[old]) / saved
                    best = min(best or (np.inf, 0, 0), (float(price), layer, option))
        if best is None:
            raise ConstraintError("greedy: no change saves more, and the limit is not met")
        at[best[1]] = best[2]
    return labels


def at_random(problem: ChoiceProblem, *, seed: int = 0, share: float = 0.98) -> Labels:
    """Returns a layout of nearly the limit's cost that knows nothing of the scores.

    It is optimal for scores drawn at random, so every option is equally likely to be preferred.

    Args:
        problem: The program.
        seed: Seed of the draw.
        share: The cost is at least this share of the limit.
    """
    (limit,) = problem.limits
    assert limit.at_most is not None
    score = np.random.default_rng(seed).random(problem.size)
    narrow = Limit(limit.resource, at_least=share * limit.at_most, at_most=limit.at_most)
    return solve(dataclasses.replace(problem, score=score, limits=(narrow,)), seed=seed).labels


def whole_layers(
    problem: ChoiceProblem, influence: Iterable[float], *, empty: str, full: str | None = None
) -> Labels:
    """Returns the parent without the layers of least influence, as few as the limit allows.

    Args:
        problem: The program.
        influence: One number per layer, such as `block_influence` gives.
        empty: Label of the block that does nothing.
        full: Label of the parent's block; by default the first of each layer.

    Raises:
        ConstraintError: Even without any layer the limit is not met.
    """
    order = np.argsort(np.array(list(influence)), kind="stable").tolist()
    labels = [full or group[0] for group in problem.groups]
    for layer in [None, *order]:
        if layer is not None:
            labels[layer] = empty
        if within(problem, labels):
            return tuple(labels)
    raise ConstraintError("even without any layer the limit is not met")


def within(problem: ChoiceProblem, labels: Sequence[str]) -> bool:
    """Returns whether a layout is within the limits."""
    choices = [row.index(label) for row, label in zip(problem.groups, labels, strict=True)]
    return not problem.violations(choices)


def _labels(problem: ChoiceProblem, at: Sequence[int]) -> Labels:
    return tuple(row[option] for row, option in zip(problem.groups, at, strict=True))


def _resource(problem: ChoiceProblem) -> tuple[list[int], npt.NDArray[np.float64]]:
    (limit,) = problem.limits
    return problem.starts.tolist(), problem.resources[limit.resource]
