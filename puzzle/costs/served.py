"""The number format that a child is served in, decided before any cost model is used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from puzzle.costs.profile import Profile
from puzzle.hardware.format_speed import fast_format
from puzzle.hardware.precision import AUTO, FormatChoice
from puzzle.limits.scenario import Scenario
from puzzle.storage.workspace import Workspace

__all__ = ["served_format"]


def served_format(hardware: Any, *, workspace: Workspace | None = None) -> FormatChoice:
    """Returns the number format that takes the place of "auto" in a scenario.

    Args:
        hardware: As for `puzzle.costs.cost_model`. A device of this machine, or the engine
            "torch", serves in the format that the device computes fast in; a profile, or a cost
            model that was measured for a scenario, in the format it was taken in; anything else
            in bfloat16.
        workspace: Where the choice for a device is stored.

    Example:
        >>> print(served_format("roofline:h100-sxm"))
        bfloat16 (what engines serve)
    """
    if isinstance(hardware, str | os.PathLike):
        word = os.fspath(hardware)
        if word == "torch":
            return fast_format("cpu", workspace=workspace)
        if word.partition(":")[0] in ("cpu", "cuda"):
            return fast_format(word, workspace=workspace)
        if Path(word).suffix.lower() == ".json" and not word.startswith("table:"):
            return _of(Profile.load(word).scenario)
        return _of(None)
    return _of(getattr(hardware, "scenario", None))


def _of(scenario: Any) -> FormatChoice:
    if isinstance(scenario, Scenario) and scenario.weight_dtype != AUTO:
        return FormatChoice(scenario.weight_dtype, "what the costs were taken in")
    return FormatChoice("bfloat16", "what engines serve")
