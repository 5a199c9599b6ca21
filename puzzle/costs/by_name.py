"""hardware=: from a word to a cost model."""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle.costs.cost_table import Table
from puzzle.costs.profile import Profile
from puzzle.costs.protocol import CostModel
from puzzle.costs.roofline import Roofline
from puzzle.costs.served import served_format
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from search_space import ModelShape, SearchSpace

if TYPE_CHECKING:  # these import torch's models, and a roofline needs none of them
    from puzzle.models.parent import Parent
    from puzzle.storage.workspace import Workspace

__all__ = ["cost_model"]

ENGINES = {"llama.cpp": "LlamaCpp", "vllm": "Vllm", "torch": "TorchGenerate"}
ALLOWED = (
    "'cpu' or 'cuda' (measured here), 'roofline:<device>' such as 'roofline:h100-sxm', "
    "'table:<path>', the path of a profile (.json), an engine to calibrate in "
    f"({', '.join(map(repr, ENGINES))}), or a CostModel"
)


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
    """Returns the cost model that a word stands for.

    Args:
        hardware: "cpu" or "cuda" for costs measured on this device; "roofline:h100-sxm" for
            published rates; "table:costs.csv"; the path of a profile; "llama.cpp", "vllm" or
            "torch" for costs calibrated in that engine; or a cost model, which is returned.
        shape: The parent's sizes.
        scenario: The scenario; a profile of another one is refused.
        space: The blocks to measure or calibrate with.
        parent: The parent, for what is measured here.
        workspace: Where what is measured is stored.
        **options: Passed on: to `Roofline` (tensor_parallel, weight_dtype, ...), or to the
            measurement.

    Raises:
        CostModelError: The word is none of these, or something it needs was not given.

    Example:
        >>> shape = ModelShape(layers=2, hidden=64, heads=4, head_dim=16, kv_heads=2,
        ...                    ffn_width=256, vocab=100)
        >>> cost_model("roofline:h200", shape=shape, scenario=Scenario()).spec.name
        'h200'
    """
    if not isinstance(hardware, str | os.PathLike):
        return _given(hardware)
    word = os.fspath(hardware)
    if word in ENGINES:
        scenario = scenario.served_in(served_format(word, workspace=workspace).name)
    kind, colon, rest = word.partition(":")
    if kind == "roofline" and colon:
        return Roofline(rest, shape, **options)
    if kind == "table" and colon:
        return Table(rest)
    if word in ("cpu", "cuda") or (kind == "cuda" and rest.isdigit()) or word in ENGINES:
        if space is None or parent is None or workspace is None:
            raise CostModelError(f"hardware={word!r} runs models; give parent, space and workspace")
        if word in ENGINES:
            return _calibrated(word, parent, space, scenario, workspace, options)
        return _measured(word, parent, space, scenario, workspace, options)
    if Path(word).suffix.lower() == ".json":
        return Profile.load(word, scenario=scenario, shape=shape)
    raise CostModelError(f"hardware={word!r}; allowed: {ALLOWED}")


def _given(hardware: Any) -> CostModel:
    missing = [n for n in ("resources", "block_cost", "fixed_cost") if not hasattr(hardware, n)]
    if missing:
        raise CostModelError(
            f"hardware={hardware!r} is no cost model: it has no {', '.join(missing)}; allowed: "
            f"{ALLOWED}"
        )
    model: CostModel = hardware
    return model


def _measured(
    word: str,
    parent: Parent,
    space: SearchSpace,
    scenario: Scenario,
    workspace: Workspace,
    options: dict[str, Any],
) -> CostModel:
    from puzzle.costs.measured.sublayers import MeasuredCosts

    if word != "cpu":
        if "device" not in inspect.signature(MeasuredCosts.measure).parameters:
            raise CostModelError(
                f"hardware={word!r}: MeasuredCosts measures on the CPU alone; measure there, or "
                "plan with 'roofline:<device>' or a profile taken elsewhere"
            )
        options = {"device": word, **options}
    return MeasuredCosts.measure(parent, space, scenario, workspace=workspace, **options)


def _calibrated(
    word: str,
    parent: Parent,
    space: SearchSpace,
    scenario: Scenario,
    workspace: Workspace,
    options: dict[str, Any],
) -> CostModel:
    try:
        calibrated = importlib.import_module(
            "puzzle.costs.calibrated.engine_costs"
        ).EngineCalibrated
        engine = getattr(
            importlib.import_module("puzzle.costs.calibrated.engines"), ENGINES[word]
        )()
    except (ImportError, AttributeError) as error:
        raise CostModelError(f"hardware={word!r} cannot be used here: {error}") from error
    found: CostModel = calibrated.measure(
        engine, parent, space, scenario, workspace=workspace, **options
    )
    return found
