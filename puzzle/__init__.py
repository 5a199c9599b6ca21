"""Neural architecture search that makes a pretrained language model faster on your hardware."""

# First, because OpenMP reads its settings when torch is loaded.
from puzzle import threads as _threads  # noqa: F401

# Importing the child registers it with the transformers Auto classes.
from puzzle.child import PuzzleConfig, PuzzleForCausalLM
from puzzle.costs import (
    Corrected,
    CostModel,
    DeviceSpec,
    Efficiency,
    MeasuredCosts,
    Profile,
    Roofline,
    Table,
)
from puzzle.data import DataConfig
from puzzle.devices import Device, devices
from puzzle.distill import DistillConfig, DistillResult, distill
from puzzle.errors import CostModelError, ExportError, PuzzleError
from puzzle.evaluate import Evaluation, evaluate
from puzzle.export import Exported, export
from puzzle.result import SearchResult, load_result
from puzzle.scenario import Scenario, Workload
from puzzle.search import search
from puzzle.serve_check import ServeCheck, serve_check
from search_space import FFN, Attention, Block, Layout, ModelShape, SearchSpace
from solvers import InfeasibleError

__version__ = "0.1.0"
__all__ = [
    "FFN",
    "Attention",
    "Block",
    "Corrected",
    "CostModel",
    "CostModelError",
    "DataConfig",
    "Device",
    "DeviceSpec",
    "DistillConfig",
    "DistillResult",
    "Efficiency",
    "Evaluation",
    "ExportError",
    "Exported",
    "InfeasibleError",
    "Layout",
    "MeasuredCosts",
    "ModelShape",
    "Profile",
    "PuzzleConfig",
    "PuzzleError",
    "PuzzleForCausalLM",
    "Roofline",
    "Scenario",
    "SearchResult",
    "SearchSpace",
    "ServeCheck",
    "Table",
    "Workload",
    "devices",
    "distill",
    "evaluate",
    "export",
    "load_result",
    "search",
    "serve_check",
]
