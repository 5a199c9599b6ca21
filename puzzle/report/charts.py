"""The charts of a report: the frontier, costs, corrections and training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from puzzle.costs.correction import Correction
from puzzle.plotting.chart import Chart, Mark, Series
from puzzle.report.answer_seconds import AnswerSeconds, ModeSeconds
from puzzle.report.cost_points import Cost
from puzzle.report.frontier import KINDS, Frontier

# Okabe-Ito's palette.
LOOKS: dict[str, tuple[Mark, str]] = {
    "frontier": ("circle", "#0072B2"),
    "pool": ("square", "#56B4E9"),
    "tried": ("plus", "#CC79A7"),
    "greedy": ("triangle", "#E69F00"),
    "random": ("cross", "#777777"),
    "parent": ("ring", "#333333"),
    "child": ("ring", "#D55E00"),
    "measured": ("diamond", "#D55E00"),
}
"""Mark and colour of each kind of point."""
MOST_POINTS = 200


def frontier_chart(frontier: Frontier) -> Chart:
    """Returns quality against throughput."""
    series = []
    for kind, label in KINDS.items():
        points = sorted((p.share, p.kl) for p in frontier.points if p.kind == kind)
        if points:
            mark, colour = LOOKS[kind]
            joined = kind == "frontier"
            series.append(Series(label=label, points=points, mark=mark, colour=colour, line=joined))
    wanted = frontier.wanted
    return Chart(
        title=f"Quality against {frontier.axis}",
        series=tuple(series),
        x=f"{frontier.axis}, times the parent's",
        y="KL to the parent, nats per token",
        vertical=wanted,
        vertical_label="" if wanted is None else f"target {wanted:.3g}x",
    )


def costs_chart(costs: Sequence[Cost]) -> Chart:
    """Returns measured over predicted costs."""
    names = tuple(dict.fromkeys(cost.name for cost in costs))
    series = []
    # Apart, so that one does not hide the other.
    for who, look, shift in (("parent", "parent", -0.16), ("child", "measured", 0.16)):
        points = [(cost.ratio, names.index(cost.name) + shift) for cost in costs if cost.who == who]
        mark, colour = LOOKS[look]
        series.append(Series(label=who, points=points, mark=mark, colour=colour))
    return Chart(
        title="Measured over predicted costs",
        series=tuple(series),
        x="measured / predicted",
        vertical=1.0,
        names=names,
    )


def answers_chart(answers: AnswerSeconds) -> Chart:
    """Returns accuracy over seconds per answer, of both models in each mode and under budgets."""
    series = []
    for who in ("parent", "child"):
        mark, colour = LOOKS["measured" if who == "child" else who]
        limited = [_place(modes["on"], who) for modes in answers.budgets.values() if "on" in modes]
        if limited:
            line = sorted([*limited, _place(answers.modes["on"], who)])
            label = f"{who}, budgets of thought"
            series.append(Series(label=label, points=line, mark="plus", colour=colour, line=True))
        for mode, own in answers.modes.items():
            shape: Mark = mark if mode == "on" else "square" if who == "child" else "circle"
            points = [_place(own, who)]
            label = f"{who}, thinking {mode}"
            series.append(Series(label=label, points=points, mark=shape, colour=colour))
    return Chart(
        title="Accuracy over seconds per answer",
        series=tuple(series),
        x="seconds per answer",
        y="accuracy",
    )


def _place(mode: ModeSeconds, who: str) -> tuple[float, float]:
    return getattr(mode, who), getattr(mode, f"{who}_accuracy")


def corrections_chart(corrections: Mapping[str, Correction]) -> Chart:
    """Returns predicted against measured seconds of whole layouts."""
    series, both = [], []
    looks: tuple[tuple[Mark, str], ...] = (("circle", "#0072B2"), ("square", "#E69F00"))
    for (name, correction), (mark, colour) in zip(corrections.items(), looks, strict=False):
        points = sorted(zip(correction.predicted, correction.measured, strict=True))
        both += [value for point in points for value in point]
        within = (
            "too few to tell" if math.isnan(correction.known) else f"within {correction.known:.1%}"
        )
        label = f"{name.removesuffix('_seconds')}, {within}"
        series.append(Series(label=label, points=points, mark=mark, colour=colour))
    ends = [(value, value) for value in (min(both), max(both))]
    return Chart(
        title="Predicted against measured seconds of whole layouts",
        series=(Series(label="predicted as measured", points=ends, line=True), *series),
        x="predicted before correction, seconds",
        y="measured, seconds",
    )


def training_charts(record: Mapping[str, Any]) -> tuple[tuple[str, Chart], ...]:
    """Returns the curves of a distillation, each with its caption.

    Args:
        record: `DistillResult.to_dict()`.
    """
    charts = []
    history, evaluations = record.get("history") or [], record.get("evaluations") or []
    if len(history) > 1:
        points, size = averaged([(e["tokens"], e["loss"]) for e in history])
        note = f", mean of every {size} steps" if size > 1 else ""
        series = Series(label="loss", points=points, colour="#0072B2", line=True)
        charts.append((f"Training loss{note}", _curve(series, "loss")))
    if len(evaluations) > 1:
        tokens = {entry["step"]: entry["tokens"] for entry in history}
        points = [(tokens.get(e["step"], 0.0), e["kl"]) for e in evaluations]
        series = Series(label="KL", points=points, mark="diamond", colour="#D55E00", line=True)
        charts.append(("KL to the parent on validation text", _curve(series, "KL, nats per token")))
    return tuple(charts)


def averaged(points: Sequence[tuple[float, float]]) -> tuple[list[tuple[float, float]], int]:
    """Returns at most about `MOST_POINTS` points, each the mean of so many neighbours."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]
    return means, size


def _curve(series: Series, y: str) -> Chart:
    return Chart(title=f"{y} by tokens", series=(series,), x="tokens", y=y)
