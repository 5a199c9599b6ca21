"""Costs: what each block takes of the target device in a scenario."""

from puzzle.costs.bench import Bench, bench_of, torch_device
from puzzle.costs.calibrated import EngineCalibrated
from puzzle.costs.checked import (
    check_resources,
    checked_block_cost,
    checked_fixed_cost,
    layout_cost,
    usable_blocks,
)
from puzzle.costs.choose import cost_model
from puzzle.costs.columns import block_columns, check_columns, fixed_columns, layout_columns
from puzzle.costs.correction import (
    Corrected,
    Correction,
    fit_correction,
    meet,
    tighten,
)
from puzzle.costs.counted import with_counts
from puzzle.costs.device import device_record, software_versions
from puzzle.costs.engines import Command, LlamaCpp, TorchGenerate, Vllm
from puzzle.costs.measured import MeasuredCosts
from puzzle.costs.model import RESOURCES, STANDARD_UNITS, CostModel
from puzzle.costs.nvml import EnergyMeter
from puzzle.costs.profile import Profile
from puzzle.costs.roofline import Efficiency, Roofline
from puzzle.costs.several import PerScenario
from puzzle.costs.specs import SPECS, DeviceSpec, device_spec
from puzzle.costs.table import Table

__all__ = [
    "RESOURCES",
    "SPECS",
    "STANDARD_UNITS",
    "Bench",
    "Command",
    "Corrected",
    "Correction",
    "CostModel",
    "DeviceSpec",
    "Efficiency",
    "EnergyMeter",
    "EngineCalibrated",
    "LlamaCpp",
    "MeasuredCosts",
    "PerScenario",
    "Profile",
    "Roofline",
    "Table",
    "TorchGenerate",
    "Vllm",
    "bench_of",
    "block_columns",
    "check_columns",
    "check_resources",
    "checked_block_cost",
    "checked_fixed_cost",
    "cost_model",
    "device_record",
    "device_spec",
    "fit_correction",
    "fixed_columns",
    "layout_columns",
    "layout_cost",
    "meet",
    "software_versions",
    "tighten",
    "torch_device",
    "usable_blocks",
    "with_counts",
]
