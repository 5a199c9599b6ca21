"""Running parent and child where the costs are of, so that predictions meet measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from puzzle.costs.calibrated.engine_costs import EngineCalibrated
from puzzle.costs.measured.replies import speed
from puzzle.costs.measured.sublayers import MeasuredCosts
from puzzle.costs.protocol import CostModel
from puzzle.limits.scenario import Scenario
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


def bench_of(costs: Mapping[Scenario, CostModel]) -> Bench | None:
    """Returns what times parent and child where the costs are of; None where that is not here.

    Published rates, tables, profiles and cost models of one's own are of other machines, or may
    be: what a child takes on this one says nothing about them.

    Args:
        costs: The cost model of each scenario.

    Returns:
        A function of the models "parent" and "child" (made when they are needed), the child's
        layout and a scenario, that returns the totals of both.
    """
    engines = {
        scenario: each
        for scenario, each in costs.items()
        if isinstance(each, EngineCalibrated) and each.session is not None
    }
    if len(engines) == len(costs):
        return lambda models, layout, scenario: engines[scenario].timed(layout)
    devices = {
        scenario: each.device
        for scenario, each in costs.items()
        if isinstance(each, MeasuredCosts) and each.device is not None
    }
    if len(devices) == len(costs):
        return lambda models, layout, scenario: speed(
            dict(models()), scenario, device=devices[scenario]
        )
    return None
