"""The number formats of a search, decided before anything is built or measured."""

from __future__ import annotations

from typing import Any

from puzzle.costs.served import served_format
from puzzle.hardware.format_speed import fast_format
from puzzle.hardware.precision import AS_GIVEN, AUTO, FormatChoice, Formats, Precision
from puzzle.limits.scenario import Workload
from puzzle.models.parent import Parent
from puzzle.storage.workspace import Workspace

__all__ = ["choose_formats"]


def choose_formats(
    precision: Precision | str,
    workload: Workload,
    hardware: Any,
    parent: Parent,
    workspace: Workspace,
) -> Formats:
    """Returns what a search works in, serves and stores, each with its reason.

    Args:
        precision: As given to `puzzle.search`; a single number format is also served, unless the
            scenario says otherwise.
        workload: The scenarios; a number format that they give is served.
        hardware: The hardware that costs describe.
        parent: The parent, opened in the working format.
        workspace: Where the choice for a device is kept.
    """
    wanted = Precision.of(precision)
    if wanted.working == AUTO:
        working = fast_format(parent.device, workspace=workspace)
    else:
        working = FormatChoice(wanted.working, AS_GIVEN)
    given = workload.weight_dtype
    if given == AUTO and isinstance(precision, str):
        given = precision
    if given == AUTO:
        served = served_format(hardware, workspace=workspace)
    else:
        served = FormatChoice(given, AS_GIVEN)
    if wanted.stored != AUTO:
        stored = FormatChoice(wanted.stored, AS_GIVEN)
    elif parent.stored_dtype is not None:
        stored = FormatChoice(parent.stored_dtype, "as the parent is stored")
    else:
        stored = FormatChoice(served.name, "as it is served")
    return Formats(working=working, served=served, stored=stored)
