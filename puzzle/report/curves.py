"""Curves of a distillation, from the record that it leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from puzzle.distillation.outcome import DistillResult
from puzzle.distillation.saving import RECORD
from puzzle.errors import DataError
from puzzle.figures.svg import Series, chart

MOST_POINTS = 200
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
        file = Path(given) / RECORD
        if not file.is_file():
            raise DataError(f"{file} is missing; give the directory that distill() wrote")
    else:
        return given.to_dict() if isinstance(given, DistillResult) else given
    record: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return record


def curves_svg(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the curves of a distillation, each with its caption.

    Args:
        record: `DistillResult.to_dict()`.
    """
    found = []
    history, evaluations = record.get("history") or [], record.get("evaluations") or []
    if len(history) > 1:
        points, size = averaged([(e["tokens"], e["loss"]) for e in history])
        note = f", mean of every {size} steps" if size > 1 else ""
        series = Series(label="loss", points=points, colour="#0072B2", line=True)
        found.append((f"Training loss{note}", _curve(series, "loss")))
    if len(evaluations) > 1:
        tokens = {entry["step"]: entry["tokens"] for entry in history}
        points = [(tokens.get(e["step"], 0.0), e["kl"]) for e in evaluations]
        series = Series(label="KL", points=points, mark="diamond", colour="#D55E00", line=True)
        caption = "KL to the parent on validation text"
        found.append((caption, _curve(series, "KL, nats per token")))
    return found


def averaged(points: Sequence[tuple[float, float]]) -> tuple[list[tuple[float, float]], int]:
    """Returns at most about `MOST_POINTS` points, each the mean of so many neighbours."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]
    return means, size


def _curve(series: Series, y: str) -> str:
    return chart([series], x="tokens", y=y, title=f"{y} by tokens")
