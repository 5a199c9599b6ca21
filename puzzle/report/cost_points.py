"""Predicted against measured costs."""

from __future__ import annotations

from dataclasses import dataclass

from puzzle.limits.quantities import QUANTITIES, readable
from puzzle.report.record import SearchRecord

COSTS = {
    "seconds": ("time of the scenario", "latency"),
    "prefill_seconds": ("time of prefill", "ttft"),
    "decode_seconds": ("time of decode", "latency"),
    "memory": ("memory", "memory"),
    "kv_cache": ("KV cache", "kv_cache"),
    "parameters": ("parameters", "parameters"),
}
"""What both a cost model and a run give: its name, and the quantity that has its units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One figure of one model, predicted and measured.

    Args:
        name: The figure.
        who: "parent" or "child".
        predicted: By the cost model, with its unit.
        measured: By running it, with its unit.
        ratio: Measured over predicted.
    """

    name: str
    who: str
    predicted: str
    measured: str
    ratio: float


def costs_of(record: SearchRecord) -> tuple[Cost, ...]:
    """Returns every figure that was both predicted and measured, parent and child in turn."""
    costs = []
    for key, (name, quantity) in COSTS.items():
        for who in ("parent", "child"):
            predicted = getattr(getattr(record.predicted, who), key) or 0.0
            measured = getattr(getattr(record.measured, who), key) or 0.0
            if predicted > 0 and measured > 0:
                unit = QUANTITIES[quantity]
                costs.append(
                    Cost(
                        name=name,
                        who=who,
                        predicted=readable(unit, predicted, "<="),
                        measured=readable(unit, measured, "<="),
                        ratio=measured / predicted,
                    )
                )
    return tuple(costs)
