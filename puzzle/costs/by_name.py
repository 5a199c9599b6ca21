"""The cost model that `hardware=` names, as a stage of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puzzle.costs.calibrated.engine_costs import EngineCalibrated
from puzzle.costs.calibrated.engines.engine import Engine
from puzzle.costs.calibrated.engines.llama_cpp import LlamaCpp
from puzzle.costs.calibrated.engines.torch_generate import TorchGenerate
from puzzle.costs.calibrated.engines.vllm import Vllm
from puzzle.costs.cost_table import Table
from puzzle.costs.device_specs import device_spec
from puzzle.costs.measured.layout_times import LayoutTimes
from puzzle.costs.measured.sublayer_times import SublayerTimes
from puzzle.costs.measured.sublayers import MeasuredCosts
from puzzle.costs.profile import Profile
from puzzle.costs.protocol import CostModel
from puzzle.costs.roofline import Roofline
from puzzle.costs.served import served_format
from puzzle.errors import CostModelError
from puzzle.estimates import Estimate, Sizes
from puzzle.limits.scenario import Scenario
from puzzle.models.parent import Parent
from puzzle.stages import Run, Stage
from puzzle.storage.paths import user_path
from puzzle.storage.workspace import Workspace
from search_space import Layout, ModelShape, SearchSpace

__all__ = ["HardwareCosts", "cost_model", "is_run_here", "pair_seconds", "torch_device"]

ENGINES: Mapping[str, Callable[[], Engine]] = {
    "llama.cpp": LlamaCpp,
    "vllm": Vllm,
    "torch": TorchGenerate,
}
ALLOWED = (
    "'cpu' or 'cuda' (measured here), 'roofline:<device>' such as 'roofline:h100-sxm', "
    "'table:<path>', the path of a profile (.json), an engine to calibrate in "
    f"({', '.join(map(repr, ENGINES))}), or a CostModel"
)
PairSeconds = dict[str, dict[str, float]]


def torch_device(hardware: Any) -> str | None:
    """Returns the torch device that `hardware=` names, or None.

    Example:
        >>> torch_device("cuda:1"), torch_device("roofline:h100-sxm")
        ('cuda:1', None)
    """
    if not isinstance(hardware, str):
        return None
    kind, colon, index = hardware.partition(":")
    if hardware in ("cpu", "cuda") or (kind == "cuda" and colon and index.isdigit()):
        return hardware
    return None


def require_hardware(hardware: Any) -> None:
    """Refuses what is no hardware, without opening a parent, reading a file or running an engine.

    Args:
        hardware: As for `cost_model`.

    Raises:
        CostModelError: The word stands for nothing, its file is absent, or it is no cost model.
    """
    if not isinstance(hardware, str | os.PathLike):
        _custom(hardware)
        return
    word = os.fspath(hardware)
    kind, colon, rest = word.partition(":")
    is_table, is_profile = kind == "table" and colon, Path(word).suffix.lower() == ".json"
    if is_run_here(word):
        return
    if kind == "roofline" and colon:
        device_spec(rest)
    elif not (is_table or is_profile):
        raise CostModelError(f"hardware={word!r}; allowed: {ALLOWED}")
    elif not user_path(rest if is_table else word).is_file():
        raise CostModelError(f"hardware={word!r}: there is no such file; give the path of one")


def is_run_here(hardware: Any) -> bool:
    """Returns whether `hardware=` names something that is measured on this machine.

    Example:
        >>> is_run_here("cuda:1"), is_run_here("llama.cpp"), is_run_here("table:costs.csv")
        (True, True, False)
    """
    return torch_device(hardware) is not None or (isinstance(hardware, str) and hardware in ENGINES)


def require_engine(hardware: Any) -> None:
    """Refuses an engine that is known but not installed.

    Args:
        hardware: As for `cost_model`.

    Raises:
        EngineError: It is missing; the message says what to install.
    """
    engine = None
    if isinstance(hardware, str) and hardware in ENGINES:
        engine = ENGINES[hardware]()
    elif isinstance(hardware, EngineCalibrated) and hardware.session is not None:
        engine = hardware.session.engine
    if engine is not None:
        engine.check()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HardwareCosts(Stage[CostModel]):
    """The cost model that `hardware=` names, in one scenario.

    Args:
        hardware: As for `cost_model`.
        space: The blocks to measure or calibrate with.
        scenario: The scenario.
        options: As for `cost_model`.
    """

    hardware: str | os.PathLike[str] | CostModel
    space: SearchSpace
    scenario: Scenario
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def times(self) -> SublayerTimes | None:
        """The sublayer timings; None where the hardware is not a torch device."""
        device = torch_device(self.hardware)
        if device is None:
            return None
        return SublayerTimes.of(self.space, self.scenario, **{"device": device, **self.options})

    def result(self, run: Run) -> CostModel:
        """Returns the cost model, measured or calibrated if need be."""
        if (times := self.times) is not None:
            return MeasuredCosts.read(run, times)
        if isinstance(self.hardware, str) and self.hardware in ENGINES:
            served = served_format(self.hardware, workspace=run.workspace)
            return EngineCalibrated.measure(
                ENGINES[self.hardware](),
                run.parent,
                self.space,
                self.scenario.served_in(served.name),
                workspace=run.workspace,
                **self.options,
            )
        return _modelled(self.hardware, run.parent.shape, self.scenario, self.options)

    def estimate(self, sizes: Sizes) -> Estimate:
        """Returns what measuring takes; an engine's calibration time is not known beforehand."""
        if (times := self.times) is not None:
            return times.estimate(sizes)
        work = "nothing is measured"
        if is_run_here(self.hardware):
            work = f"calibrated in {self.hardware}; how long that takes is not known beforehand"
        return Estimate(name="costs", work=work, seconds=0.0, memory=0.0, disk=0.0)


def pair_seconds(
    run: Run, costs: CostModel, layout: Layout, scenario: Scenario
) -> PairSeconds | None:
    """Returns the seconds of parent and child where the costs come from, or None if not here.

    Published rates, tables, profiles and custom cost models describe other machines, or may do
    so: the speed of a child on this one says nothing about them.

    Args:
        run: The run.
        costs: The cost model of the scenario.
        layout: The child's layout.
        scenario: What is run.
    """
    if isinstance(costs, EngineCalibrated) and costs.session is not None:
        return costs.timed(layout)
    if isinstance(costs, MeasuredCosts) and costs.device is not None:
        pair = run.get(LayoutTimes(layout=layout, scenario=scenario, device=costs.device))
        return {"parent": pair.parent.to_dict(), "child": pair.child.to_dict()}
    return None


def cost_model(
    hardware: str | os.PathLike[str] | CostModel,
    *,
    shape: ModelShape,
    scenario: Scenario,
    space: SearchSpace | None = None,
    parent: Parent | None = None,
    workspace: Workspace | None = None,
    **options: Any,
) -> CostModel:
    """Returns the cost model that `hardware` names.

    Args:
        hardware: "cpu" or "cuda" for costs measured on this device; "roofline:h100-sxm" for
            published rates; "table:costs.csv"; the path of a profile; "llama.cpp", "vllm" or
            "torch" for costs calibrated in that engine; or a cost model, which is returned.
        shape: The parent's sizes.
        scenario: The scenario; a profile of a different one is refused.
        space: The blocks to measure or calibrate with.
        parent: The parent, needed if anything is measured here.
        workspace: Where measurements are stored.
        **options: Passed on: to `Roofline` (tensor_parallel, weight_dtype, ...), or to the
            measurement.

    Raises:
        CostModelError: The hardware is none of these, or something it needs was not given.

    Example:
        >>> shape = ModelShape(layers=2, hidden=64, heads=4, head_dim=16, kv_heads=2,
        ...                    ffn_width=256, vocab=100)
        >>> cost_model("roofline:h200", shape=shape, scenario=Scenario()).spec.name
        'h200'
    """
    word = os.fspath(hardware) if isinstance(hardware, str | os.PathLike) else None
    if word is not None and is_run_here(word):
        if space is None or parent is None or workspace is None:
            raise CostModelError(f"hardware={word!r} runs models; give parent, space and workspace")
        stage = HardwareCosts(hardware=word, space=space, scenario=scenario, options=options)
        return Run(workspace=workspace, parent=parent).get(stage)
    return _modelled(hardware, shape, scenario, options)


def _modelled(
    hardware: Any, shape: ModelShape, scenario: Scenario, options: Mapping[str, Any]
) -> CostModel:
    """Returns a cost model that needs no measurement."""
    if not isinstance(hardware, str | os.PathLike):
        return _custom(hardware)
    word = os.fspath(hardware)
    kind, colon, rest = word.partition(":")
    if kind == "roofline" and colon:
        return Roofline(rest, shape, **options)
    if kind == "table" and colon:
        return Table(rest)
    if Path(word).suffix.lower() == ".json":
        return Profile.load(word, scenario=scenario, shape=shape)
    raise CostModelError(f"hardware={word!r}; allowed: {ALLOWED}")


def _custom(hardware: Any) -> CostModel:
    missing = [n for n in ("resources", "block_cost", "fixed_cost") if not hasattr(hardware, n)]
    if missing:
        raise CostModelError(
            f"hardware={hardware!r} is not a cost model: it has no {', '.join(missing)}; allowed: "
            f"{ALLOWED}"
        )
    model: CostModel = hardware
    return model
