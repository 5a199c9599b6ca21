"""Fitting seconds as a fixed part plus a cost per sublayer, none of them negative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from puzzle.errors import CostModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditiveFit:
    """Seconds as a sum.

    Args:
        fixed: Seconds that every layout takes.
        costs: Seconds of each option, per layer that has it.
        errors: For each layout that was fitted, the error with which a fit to the others predicts
            it, as a share of its own seconds.
    """

    fixed: float
    costs: Mapping[str, float]
    errors: tuple[float, ...]

    @property
    def median_error(self) -> float:
        """Median absolute cross-validated error, as a share."""
        return float(np.median(np.abs(self.errors)))

    @property
    def worst_error(self) -> float:
        """Largest absolute cross-validated error, as a share."""
        return float(np.abs(self.errors).max())

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"fixed": self.fixed, "costs": dict(self.costs), "errors": list(self.errors)}


def fit_additive(
    rows: np.ndarray, seconds: Sequence[float] | np.ndarray, options: Sequence[str]
) -> AdditiveFit:
    """Fits non-negative costs by least squares of the relative errors.

    Args:
        rows: How often each layout has each option, with a column of ones in front (see
            `puzzle.costs.calibrated.design.counts`).
        seconds: What each layout took.
        options: The names of the other columns.

    Raises:
        CostModelError: The layouts are too few or too similar for the number of options.

    Example:
        >>> rows = np.array([[1, 0], [1, 1], [1, 2], [1, 4]])
        >>> fit = fit_additive(rows, [1.0, 1.5, 2.0, 3.0], ["gqa1+none"])
        >>> round(fit.costs["gqa1+none"], 6)
        0.5
    """
    taken = np.asarray(seconds, dtype=float)
    rank = int(np.linalg.matrix_rank(rows))
    if len(rows) < rank + 1:
        raise CostModelError(
            f"{len(rows)} layouts are too few to fit {rank} costs and to check them; measure "
            f"{rank + 1} or more, or search among fewer options"
        )
    everything = np.arange(len(rows))
    solution = _solve(rows, taken)
    errors = [
        float(rows[left] @ _solve(rows[everything != left], taken[everything != left])) / t - 1
        for left, t in enumerate(taken)
    ]
    return AdditiveFit(
        fixed=float(solution[0]),
        costs=dict(zip(options, map(float, solution[1:]), strict=True)),
        errors=tuple(errors),
    )


def _solve(rows: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    # Dividing by the seconds makes the residuals relative errors, so that a fast layout counts
    # as much as a slow one.
    solution, _ = nnls(rows / seconds[:, None], np.ones(len(seconds)))
    return solution
