"""Predicted against measured: an affine correction, its error, and limits tightened by it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from puzzle.costs.answering import block_cost_of, fixed_cost_of
from puzzle.costs.protocol import CostModel
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from puzzle.storage.json_values import as_list, as_number, field_values
from search_space import Block, ModelShape
from solvers import Limit

__all__ = ["Corrected", "Correction", "fit_correction", "tighten"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """measured = scale x (predicted cost of the blocks) + fixed, and how well it holds.

    Args:
        scale: Factor by which block costs are multiplied.
        fixed: Replaces the fixed cost.
        predicted: Predicted totals of the layouts, before correction.
        measured: The same, measured.
        error_before: Median of |predicted / measured - 1|.
        error: The same after the correction, each layout predicted from a fit to the others;
            NaN with fewer than four layouts, too few to hold any out.
    """

    scale: float
    fixed: float
    predicted: tuple[float, ...]
    measured: tuple[float, ...]
    error_before: float
    error: float

    def to_dict(self) -> dict[str, object]:
        """Returns plain JSON values, the scatter included."""
        return {
            "scale": self.scale,
            "fixed": self.fixed,
            "predicted": list(self.predicted),
            "measured": list(self.measured),
            "error_before": self.error_before,
            "error": None if math.isnan(self.error) else self.error,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Correction:
        """Returns the correction that `to_dict` wrote.

        Raises:
            DataError: A value is missing, or of another kind.
        """
        given = field_values(cls, values, skip=("predicted", "measured", "error"))
        lists = {
            name: tuple(as_number(each, name) for each in as_list(given[name], name))
            for name in ("predicted", "measured")
        }
        error = math.nan if given["error"] is None else as_number(given["error"], "error")
        return cls(**{**given, **lists, "error": error})

    @property
    def known(self) -> float:
        """The error of what is predicted, which is not corrected where that does not help.

        NaN with too few layouts to tell.
        """
        return self.error if math.isnan(self.error) else min(self.error, self.error_before)

    @property
    def sure(self) -> str:
        """How well predictions hold, in words."""
        if math.isnan(self.error):
            return f"{len(self.measured)} layouts, too few to tell"
        count = len(self.measured)
        if self.error >= self.error_before:
            return f"within {self.error_before:.1%} (median of {count} layouts, as measured)"
        return (
            f"within {self.error:.1%} (median of {count} layouts, each predicted from the others; "
            f"uncorrected {self.error_before:.1%})"
        )


def fit_correction(
    predicted: Sequence[float], measured: Sequence[float], *, fixed: float = 0.0
) -> Correction:
    """Fits a correction to a few layouts, by least squares of the relative error.

    Neither the scale nor the fixed part can become negative. Layouts that all take nearly the
    same time cannot separate a fixed part from a scale: then, as with a single layout, the fixed
    part is scaled like the rest.

    Args:
        predicted: Totals that the cost model predicts, fixed cost included.
        measured: Totals of the same layouts, measured.
        fixed: The predicted fixed cost among them.

    Raises:
        CostModelError: There is no layout, the numbers differ, or one is not above zero.

    Example:
        >>> correction = fit_correction([1.0, 2.0, 3.0], [1.3, 2.4, 3.5], fixed=0.5)
        >>> round(correction.scale, 6), round(correction.fixed, 6)
        (1.1, 0.75)
    """
    for name, values in (("predicted", predicted), ("measured", measured)):
        if not all(math.isfinite(value) and value > 0 for value in values):
            raise CostModelError(f"{name} totals are {list(values)}; all have to be above zero")
    if len(predicted) != len(measured) or not predicted:
        raise CostModelError(
            f"{len(predicted)} predicted and {len(measured)} measured totals; give both of one or "
            "more layouts"
        )
    scale, rest = _fit(predicted, measured, fixed)
    errors = []
    if len(predicted) >= 4:
        for out in range(len(predicted)):
            others = [i for i in range(len(predicted)) if i != out]
            s, c = _fit([predicted[i] for i in others], [measured[i] for i in others], fixed)
            errors.append(abs((s * (predicted[out] - fixed) + c) / measured[out] - 1))
    before = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    return Correction(
        scale=scale,
        fixed=rest,
        predicted=tuple(predicted),
        measured=tuple(measured),
        error_before=statistics.median(before),
        error=statistics.median(errors) if errors else math.nan,
    )


def _fit(
    predicted: Sequence[float], measured: Sequence[float], fixed: float
) -> tuple[float, float]:
    p, m = np.array(predicted, dtype=float), np.array(measured, dtype=float)
    if np.ptp(p) < 0.02 * p.mean():
        scale = float((p / m).sum() / ((p / m) ** 2).sum())
        return scale, scale * fixed
    (scale, rest), _ = nnls(np.stack([(p - fixed) / m, 1 / m], axis=1), np.ones(len(m)))
    return float(scale), float(rest)


class Corrected:
    """A cost model whose seconds are corrected by measurements of whole layouts.

    Args:
        costs: The model.
        corrections: For each scenario that was measured, the corrections of `prefill_seconds` and
            `decode_seconds`, or of any other resource but `seconds`, which stays their sum. In
            any other scenario the model is left as it is.

    Raises:
        CostModelError: A correction is for a resource the model lacks, or for `seconds` where the
            model also gives its two parts.
    """

    def __init__(
        self, costs: CostModel, corrections: Mapping[Scenario, Mapping[str, Correction]]
    ) -> None:
        self.costs, self.corrections = costs, corrections
        self.resources = costs.resources
        parts = {"prefill_seconds", "decode_seconds"}
        for given in corrections.values():
            unknown = sorted(set(given) - set(costs.resources))
            if unknown or ("seconds" in given and parts <= set(costs.resources)):
                raise CostModelError(
                    f"corrections of {', '.join(given)}; {type(costs).__name__} gives "
                    f"{', '.join(costs.resources)}; seconds are corrected by their two parts"
                )

    def _summed(self, cost: dict[str, float]) -> dict[str, float]:
        if {"prefill_seconds", "decode_seconds", "seconds"} <= set(cost):
            cost["seconds"] = cost["prefill_seconds"] + cost["decode_seconds"]
        return cost

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> dict[str, float]:
        """Returns the model's cost, scaled."""
        cost = block_cost_of(self.costs, layer, block, scenario)
        for name, correction in self.corrections.get(scenario, {}).items():
            cost[name] *= correction.scale
        return self._summed(cost)

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
        """Returns the fixed cost that was fitted."""
        cost = fixed_cost_of(self.costs, shape, scenario)
        for name, correction in self.corrections.get(scenario, {}).items():
            cost[name] = correction.fixed
        return self._summed(cost)


def tighten(limit: Limit, error: float) -> Limit:
    """Returns a tighter limit for predictions, so that a measurement off by the error meets it.

    Args:
        limit: A limit with one bound.
        error: measured / predicted - 1.

    Raises:
        CostModelError: The error is on the safe side, so that there is nothing to tighten.

    Example:
        >>> tighten(Limit("seconds", at_most=5.4), 0.08).at_most
        5.0
    """
    upper = limit.at_most is not None
    if not math.isfinite(error) or (error <= 0 if upper else not -1 < error < 0):
        raise CostModelError(
            f"an error of {error:+.1%} does not break {limit.text!r}; tighten only what is missed"
        )
    bound = limit.bound / (1 + error)
    return replace(limit, at_most=bound) if upper else replace(limit, at_least=bound)
