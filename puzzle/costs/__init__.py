"""Costs: what each block takes of the target device in a scenario."""

from puzzle.costs.checked import (
    check_resources,
    checked_block_cost,
    checked_fixed_cost,
    layout_cost,
    usable_blocks,
)
from puzzle.costs.counted import with_counts
from puzzle.costs.device import device_record
from puzzle.costs.measured import MeasuredCosts
from puzzle.costs.model import RESOURCES, STANDARD_UNITS, CostModel

__all__ = [
    "RESOURCES",
    "STANDARD_UNITS",
    "CostModel",
    "MeasuredCosts",
    "check_resources",
    "checked_block_cost",
    "checked_fixed_cost",
    "device_record",
    "layout_cost",
    "usable_blocks",
    "with_counts",
]
