"""The record that a distillation leaves beside its child."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puzzle.distillation.distill_result import DistillResult
from puzzle.distillation.saving import RECORD
from puzzle.errors import DataError
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.json_values import as_list, as_number, as_object
from puzzle.storage.paths import user_path

Distilled = DistillResult | Mapping[str, Any] | str | os.PathLike[str]


def read_record(given: Distilled | None, saved: Path | None) -> Mapping[str, Any] | None:
    """Returns the record of a distillation, if there is one.

    Args:
        given: The outcome of `distill`, its record, the directory that it was given as `out`, the
            child in there, or None.
        saved: Where to look if nothing is given.

    Raises:
        DataError: The directory has no record, or what is there is not one.
    """
    if given is None:
        file = saved / RECORD if saved else None
        if file is None or not file.is_file():
            return None
    elif isinstance(given, str | os.PathLike):
        directory = user_path(given)
        places = [each / RECORD for each in (directory, directory / "child")]
        file = next((each for each in places if each.is_file()), None)
        if file is None:
            raise DataError(
                f"{directory} has no {RECORD}, nor has a child in it; give the directory that "
                "'puzzle distill' wrote to"
            )
    else:
        return given.to_dict() if isinstance(given, DistillResult) else given
    with interpreting(file, "the record of a distillation"):
        return _checked(read_object(file, "the record of a distillation"))


def _checked(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a record whose histories are lists of numbers by name."""
    for part in ("history", "evaluations"):
        for entry in as_list(record.get(part, []), part):
            for name, value in as_object(entry, part).items():
                as_number(value, f"{name} of {part}", finite=False)
    return record
