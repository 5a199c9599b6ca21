"""A bound that is quick and certain: the limits priced into the score."""

from __future__ import annotations

import math

import numpy as np

from solvers._model import one_sided
from solvers.problem import ChoiceProblem

_STEPS = 60


def relaxed_bound(problem: ChoiceProblem) -> float:
    """Bound the least score from below without solving the program.

    Lagrangian relaxation: with a price for each limit, each group is chosen for itself, and any
    prices give a valid bound. Subgradient steps raise it (Fisher, Management Science 27, 1981).

    Args:
        problem: The problem, feasible or not.

    Returns:
        A number that no choice within the limits scores below.
    """
    columns = problem.columns
    best = problem.total(columns.least(columns.score))[0]
    # A resource that no choice changes cannot be priced.
    resources = columns.resources
    sides = [side for side in one_sided(problem) if np.ptp(resources[side.resource]) > 0.0]
    if not sides:
        return best
    uses, bounds = [], []
    for side in sides:
        sign = 1.0 if side.at_most is not None else -1.0
        values = sign * resources[side.resource]
        offset = problem.offsets.get(side.resource, 0.0)
        # Prices make sense only between numbers of one size.
        size = float(np.ptp(values))
        uses.append(values / size)
        room = problem.tolerance(side.resource)
        bounds.append((sign * (side.bound - offset) + room) / size)
    use, bound = np.stack(uses), np.array(bounds)
    step = float(np.ptp(columns.score)) or 1.0
    prices = np.zeros(len(sides))
    for at in range(_STEPS):
        priced = columns.score + prices @ use
        picked = list(columns.least(priced))
        over = np.array([math.fsum(row[picked]) for row in use]) - bound
        value = math.fsum([*columns.score[picked], *(prices * over)])
        # The prices have been rounded into the sums; leave room for that.
        value -= 1e-12 * (abs(value) + float(np.abs(priced[picked]).sum()))
        best = max(best, value)
        norm = float(np.linalg.norm(over))
        if norm == 0.0:
            break
        prices = np.maximum(prices + step / (1 + at) * over / norm, 0.0)
    return best
