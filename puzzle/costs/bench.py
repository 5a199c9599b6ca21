"""Running parent and child where the costs are of, so that predictions meet measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from puzzle.costs.calibrated import EngineCalibrated
from puzzle.costs.model import CostModel
from puzzle.evaluate.speed import speed
from puzzle.scenario import Scenario
from search_space import Layout

__all__ = ["Bench", "bench_of", "torch_device"]

Models = Callable[[], Mapping[str, Any]]
Bench = Callable[[Models, Layout, Scenario], dict[str, dict[str, float]]]


def torch_device(hardware: Any) -> str | None:
    """Returns the device of torch that a word of `hardware=` names, or None.

    Example:
        >>> torch_device("cuda:1"), torch_device("roofline:h100-sxm")
        ('cuda:1', None)
    """
    if isinstance(hardware, str) and hardware.partition(":")[0] in ("cpu", "cuda"):
        return hardware
    return None


def bench_of(hardware: Any, costs: Mapping[Scenario, CostModel]) -> Bench | None:
    """Returns what times parent and child where the costs are of; None where that is not here.

    Published rates, tables, profiles and cost models of one's own are of other machines, or may
    be: what a child takes on this one says nothing about them.

    Args:
        hardware: As given to `puzzle.search`.
        costs: The cost model of each scenario.

    Returns:
        A function of the models "parent" and "child" (made when they are needed), the child's
        layout and a scenario, that returns the totals of both.
    """
    device = torch_device(hardware)
    if device is not None:
        return lambda models, layout, scenario: speed(dict(models()), scenario, device=device)
    if all(isinstance(each, EngineCalibrated) for each in costs.values()):
        return lambda models, layout, scenario: _in_engine(costs[scenario], layout)
    return None


def _in_engine(costs: Any, layout: Layout) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = costs.timed(layout)
    return found
