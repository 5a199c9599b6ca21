"""The record that a distillation leaves beside its child."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puzzle.distillation.distill_result import DistillResult
from puzzle.distillation.saving import RECORD
from puzzle.errors import DataError
from puzzle.storage.paths import user_path

Distilled = DistillResult | Mapping[str, Any] | str | os.PathLike[str]


def read_record(given: Distilled | None, saved: Path | None) -> Mapping[str, Any] | None:
    """Returns the record of a distillation, if there is one.

    Args:
        given: The outcome of `distill`, its record, the directory it was written to, or None.
        saved: Where to look if nothing is given.

    Raises:
        DataError: The directory has no record.
    """
    if given is None:
        file = saved / RECORD if saved else None
        if file is None or not file.is_file():
            return None
    elif isinstance(given, str | os.PathLike):
        file = user_path(given) / RECORD
        if not file.is_file():
            raise DataError(f"{file} is missing; give the directory that distill() wrote")
    else:
        return given.to_dict() if isinstance(given, DistillResult) else given
    record: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return record
