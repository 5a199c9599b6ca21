"""The cost model that `hardware=` names, as a stage of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from puzzle.costs.answering import resources_of
from puzzle.costs.calibrated.engine_costs import EngineCalibrated
from puzzle.costs.cost_table import Table
from puzzle.costs.hardware_word import ALLOWED, HardwareWord
from puzzle.costs.measured.layout_times import LayoutTimes, pair_fits
from puzzle.costs.measured.sublayer_times import SublayerTimes
from puzzle.costs.measured.sublayers import MeasuredCosts
from puzzle.costs.profile import Profile
from puzzle.costs.protocol import CostModel
from puzzle.costs.roofline import Roofline
from puzzle.costs.served import served_format
from puzzle.errors import CostModelError
from puzzle.estimates import Estimate, Sizes
from puzzle.hardware.identity import device_record
from puzzle.limits.scenario import Scenario
from puzzle.models.parent import Parent
from puzzle.stages import Run, Stage
from puzzle.storage.workspace import Workspace
from search_space import Layout, ModelShape, SearchSpace

__all__ = ["HardwareCosts", "cost_model", "is_run_here", "pair_seconds", "torch_device"]

PairSeconds = dict[str, dict[str, float]]


def torch_device(hardware: Any) -> str | None:
    """Returns the torch device that `hardware=` names, or None.

    Example:
        >>> torch_device("cuda:1"), torch_device("roofline:h100-sxm")
        ('cuda:1', None)
    """
    word = _word(hardware)
    return word.rest if word is not None and word.kind == "device" else None


def timed_device(hardware: Any) -> str | None:
    """Returns the torch device that `hardware=` names if whole models are timed on it, or None.

    One of several devices that share a model is timed with its share alone.

    Example:
        >>> timed_device("cuda"), timed_device("cuda,tensor_parallel=4,link=450")
        ('cuda', None)
    """
    word = _word(hardware)
    shared = word is not None and word.options.get("tensor_parallel", 1) > 1
    return None if shared else torch_device(hardware)


def hardware_record(hardware: Any, device: str) -> dict[str, Any]:
    """Returns what costs measured here are of: a device's record, and what it is one of.

    Args:
        hardware: As for `cost_model`.
        device: The torch device.
    """
    word = _word(hardware)
    return {**device_record(device), **({} if word is None else word.options)}


def require_hardware(hardware: Any) -> None:
    """Refuses what is no hardware, without opening a parent, reading a file or running an engine.

    Args:
        hardware: As for `cost_model`.

    Raises:
        CostModelError: The word stands for nothing, what it names is absent, or is no cost model.
    """
    word = _word(hardware)
    if word is not None:
        word.check()
    if word is None or word.kind == "model":
        _require_cost_model(hardware if word is None else word.imported())


def is_run_here(hardware: Any) -> bool:
    """Returns whether `hardware=` names something that is measured on this machine.

    Example:
        >>> is_run_here("cuda:1"), is_run_here("llama.cpp"), is_run_here("table:costs.csv")
        (True, True, False)
    """
    word = _word(hardware)
    return word is not None and word.is_run_here


def own_resources(hardware: Any) -> Mapping[str, str] | None:
    """Returns the units that a cost model, a table or a profile of the user's declares, or None.

    Raises:
        CostModelError: What declares them cannot be imported or read, or raises an exception.

    Example:
        >>> print(own_resources("cpu"))
        None
    """
    word = _word(hardware)
    if word is None:
        units = resources_of(hardware)
    elif word.kind == "model":
        units = resources_of(word.imported())
    elif word.kind == "table":
        units = Table(word.rest).resources
    elif word.kind == "profile":
        units = Profile.load(word.rest).resources
    else:
        return None
    # A class may have a property in their place, which only its objects answer.
    return units if isinstance(units, Mapping) else None


def has_standard_resources(hardware: Any) -> bool:
    """Returns whether the resources are those of the built-in models, whatever a file may say.

    Example:
        >>> has_standard_resources("cpu"), has_standard_resources("table:costs.csv")
        (True, False)
    """
    word = _word(hardware)
    return word is not None and word.kind not in ("table", "profile", "model")


def _word(hardware: Any) -> HardwareWord | None:
    is_text = isinstance(hardware, str | os.PathLike)
    return HardwareWord.read(hardware) if is_text else None


def require_engine(hardware: Any) -> None:
    """Refuses an engine that is known but not installed.

    Args:
        hardware: As for `cost_model`.

    Raises:
        EngineError: It is missing; the message says what to install.
    """
    word = _word(hardware)
    engine = None if word is None else word.engine
    if isinstance(hardware, EngineCalibrated) and hardware.session is not None:
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
        options = {"device": device, **self._options}
        options.pop("link", None)
        return SublayerTimes.of(self.space, self.scenario, **options)

    @property
    def _options(self) -> dict[str, Any]:
        word = _word(self.hardware)
        return {**({} if word is None else word.options), **self.options}

    def result(self, run: Run) -> CostModel:
        """Returns the cost model, measured or calibrated if need be."""
        if (times := self.times) is not None:
            return MeasuredCosts.read(run, times, link=self._options.get("link"))
        word = _word(self.hardware)
        if word is not None and (engine := word.engine) is not None:
            served = served_format(self.hardware, workspace=run.workspace)
            return EngineCalibrated.measure(
                engine,
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
        if not pair_fits(run.parent.shape, scenario, costs.device):
            return None
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
            published rates; either with ",tensor_parallel=4" after it for devices that share each
            layer, and of measured ones ",link=450", the GB/s between them; "table:costs.csv"; the
            path of a profile; "llama.cpp", "vllm" or "torch" for costs calibrated in that engine,
            "command:measure.sh {model}" in any
            other; or a cost model, or the class of one, made from the parent's sizes,
            also by name: "my_costs:EdgeCost".
        shape: The parent's sizes.
        scenario: The scenario; a profile of a different one is refused.
        space: The blocks to measure or calibrate with.
        parent: The parent, needed if anything is measured here.
        workspace: Where measurements are stored.
        **options: Passed on: to `Roofline` (tensor_parallel, weight_dtype, ...), to a class of
            your own, or to the measurement.

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
    word = _word(hardware)
    if word is None or word.kind == "model":
        return _own_model(hardware if word is None else word.imported(), shape, options)
    if word.kind == "roofline":
        return Roofline(word.rest, shape, **{**word.options, **options})
    if word.kind == "table":
        return Table(word.rest)
    return Profile.load(word.rest, scenario=scenario, shape=shape)


def _own_model(given: Any, shape: ModelShape, options: Mapping[str, Any]) -> CostModel:
    """Returns a cost model of the user's, made for the parent if its class was given."""
    _require_cost_model(given)
    if isinstance(given, type):
        try:
            given = given(shape, **options)
        except Exception as error:
            raise CostModelError(
                f"hardware={given!r} cannot be made for a parent: {type(error).__name__}: {error}; "
                "it is called with the parent's ModelShape"
            ) from error
    model: CostModel = given
    return model


def _require_cost_model(given: Any) -> None:
    missing = [n for n in ("block_cost", "fixed_cost") if not hasattr(given, n)]
    if resources_of(given) is None:
        missing.insert(0, "resources")
    if missing:
        raise CostModelError(
            f"hardware={given!r} is not a cost model: it has no {', '.join(missing)}; allowed: "
            f"{ALLOWED}"
        )
