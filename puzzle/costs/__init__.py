"""Costs: what each block takes of the target device in a scenario."""

from puzzle.costs.device import device_record
from puzzle.costs.measured import MeasuredCosts
from puzzle.costs.model import RESOURCES, CostModel, layout_cost

__all__ = ["RESOURCES", "CostModel", "MeasuredCosts", "device_record", "layout_cost"]
