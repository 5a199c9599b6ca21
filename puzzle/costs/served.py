"""The number format that a child is served in, decided before any cost model is used."""

from __future__ import annotations

import os
from typing import Any

from puzzle.costs.hardware_word import HardwareWord
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
    if not isinstance(hardware, str | os.PathLike):
        return _of(getattr(hardware, "scenario", None))
    word = HardwareWord.read(hardware)
    if word.kind == "device" or word.text == "torch":
        return fast_format(word.rest if word.kind == "device" else "cpu", workspace=workspace)
    if word.kind == "profile":
        return _of(Profile.load(word.rest).scenario)
    return _of(getattr(word.imported(), "scenario", None) if word.kind == "model" else None)


def _of(scenario: Any) -> FormatChoice:
    if isinstance(scenario, Scenario) and scenario.weight_dtype != AUTO:
        return FormatChoice(scenario.weight_dtype, "what the costs were taken in")
    return FormatChoice("bfloat16", "what engines serve")
