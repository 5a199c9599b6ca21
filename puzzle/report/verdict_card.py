"""The verdict card: the few figures that a report begins with."""

from __future__ import annotations

from dataclasses import dataclass

from puzzle.limits.quantities import QUANTITIES, readable
from puzzle.report.outcomes import constraint_outcomes
from puzzle.report.record import SearchRecord
from puzzle.report.words import device_words, scenario_words
from search_space import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One figure of the verdict card.

    Args:
        name: What it is.
        figure: The figure.
        words: What it is of.
        good: Whether it is as it should be; None where that is a matter of taste.
    """

    name: str
    figure: str
    words: str = ""
    good: bool | None = None


def tiles(record: SearchRecord) -> tuple[Tile, ...]:
    """Returns the figures of the verdict card: speed, size, quality, constraints."""
    return (*_speed_tile(record), *_size_tile(record), *_quality_tile(record), *_limits(record))


def _speed_tile(record: SearchRecord) -> list[Tile]:
    gain = record.gain()
    if gain is None:
        return []
    name = "faster" if gain[0] >= 1 else "slower"
    return [
        Tile(
            name=name,
            figure=f"{gain[0]:.2f}\u00d7",
            words=f"the parent's throughput, {gain[1]}",
            good=gain[0] >= 1,
        )
    ]


def _size_tile(record: SearchRecord) -> list[Tile]:
    own = Layout.parent(record.layout.shape).parameters()
    both, how, key = record.measured, "measured", "memory"
    if both.ratio("memory") is None:
        both, how = record.predicted, "predicted"
    ratio = both.ratio("memory")
    if ratio is None:
        key, ratio, how = "parameters", record.layout.parameters() / own, "counted"
    values = [each.with_rates().get(key) for each in (both.parent, both.child)]
    if None in values:
        values = [float(own), float(record.layout.parameters())]
    sizes = [readable(QUANTITIES[key], value, "<=") for value in values if value is not None]
    words = f"{key}, {how}: {sizes[0]} to {sizes[1]}"
    name = "smaller" if ratio <= 1 else "larger"
    figure = f"{100 * abs(1 - ratio):.0f} %"
    return [Tile(name=name, figure=figure, words=words, good=ratio <= 1)]


def _quality_tile(record: SearchRecord) -> list[Tile]:
    child = record.measured.child
    if child.agreement is None:
        return []
    kl = "" if child.kl is None else f"; KL {child.kl:.3f} nats per token"
    return [
        Tile(
            name="quality kept",
            figure=f"{100 * child.agreement:.0f} %",
            words=f"of next tokens as the parent's{kl}",
        )
    ]


def _limits(record: SearchRecord) -> list[Tile]:
    outcomes = constraint_outcomes(record)
    if not outcomes:
        return []
    met = sum(each.met is True for each in outcomes)
    unknown = sum(each.met is None for each in outcomes)
    words = f"{unknown} not measured" if unknown else ""
    return [
        Tile(
            name="constraints met",
            figure=f"{met} of {len(outcomes)}",
            words=words,
            good=None if met + unknown == len(outcomes) and unknown else met == len(outcomes),
        )
    ]


def conditions(record: SearchRecord) -> str:
    """Returns where and when the figures were measured."""
    run = record.evidence.run if record.evidence else {}
    words = [device_words(run["device"]), run["date"][:10]] if run else []
    return "; ".join([scenario_words(record.scenario), *words])
