"""The figures of a result as SVG; `plots` draws the same with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from puzzle.costs.correction import Correction
from puzzle.figures.svg import INK, RIGHT, WIDTH, Series, chart, legend, mark, picture, text
from puzzle.figures.svg import ticks as round_numbers
from puzzle.report.cost_points import Cost
from puzzle.report.frontier import KINDS, Frontier

LOOKS = {
    "frontier": ("circle", "#0072B2"),
    "pool": ("square", "#56B4E9"),
    "tried": ("plus", "#CC79A7"),
    "greedy": ("triangle", "#E69F00"),
    "random": ("cross", "#777777"),
    "parent": ("ring", "#333333"),
    "child": ("ring", "#D55E00"),
    "measured": ("diamond", "#D55E00"),
}
"""Mark and colour of each kind of point (Okabe-Ito's palette)."""


def frontier_svg(found: Frontier) -> str:
    """Returns the picture of quality against throughput."""
    series = []
    for kind, label in KINDS.items():
        points = sorted((p.share, p.kl) for p in found.points if p.kind == kind)
        if points:
            shape, colour = LOOKS[kind]
            series.append(
                Series(
                    label=label,
                    points=points,
                    mark=shape,
                    colour=colour,
                    line=kind == "frontier",
                )
            )
    vertical = (found.wanted, f"asked for {found.wanted:.3g}x") if found.wanted else None
    drawn = chart(
        series,
        x=f"{found.axis}, times the parent's",
        y="KL to the parent, nats per token",
        title=f"Quality against {found.axis}",
        vertical=vertical,
    )
    return drawn + legend(series)


def costs_svg(costs: Sequence[Cost]) -> str:
    """Returns the picture of measured over predicted costs."""
    names = list(dict.fromkeys(cost.name for cost in costs))
    axis = round_numbers(min(1.0, *(c.ratio for c in costs)), max(1.0, *(c.ratio for c in costs)))
    left, pitch = 112.0, 26
    base = pitch * len(names) + 6

    def at(ratio: float) -> float:
        share = (ratio - axis[0]) / (axis[-1] - axis[0])
        return left + share * (WIDTH - left - RIGHT)

    parts = []
    for tick in axis:
        width = 1.4 if tick == 1.0 else 0.7
        colour = INK if tick == 1.0 else "#DDDDDD"
        x = at(tick)
        parts.append(f'<path d="M{x:.1f} 4V{base}" stroke="{colour}" stroke-width="{width}"/>')
        parts.append(text(x, base + 13, f"{tick:g}", anchor="middle"))
    for row, name in enumerate(names):
        y = row * pitch + pitch / 2 + 4
        parts.append(text(left - 8, y + 3.5, name, anchor="end"))
        for cost in (c for c in costs if c.name == name):
            shape, colour = LOOKS["parent" if cost.who == "parent" else "measured"]
            # Apart, so that one does not hide the other.
            shift = -4 if cost.who == "parent" else 4
            parts.append(mark(shape, at(cost.ratio), y + shift, colour))
    parts.append(text((left + WIDTH) / 2, base + 30, "measured / predicted", anchor="middle"))
    key = [
        Series(label=who, points=(), mark=LOOKS[kind][0], colour=LOOKS[kind][1])
        for who, kind in (("parent", "parent"), ("child", "measured"))
    ]
    return picture(WIDTH, base + 38, "Measured over predicted costs", parts) + legend(key)


def corrections_svg(corrections: Mapping[str, Correction]) -> str:
    """Returns the scatter of predicted against measured seconds of whole layouts."""
    series, both = [], []
    for (name, found), look in zip(corrections.items(), ("circle", "square"), strict=False):
        points = sorted(zip(found.predicted, found.measured, strict=True))
        both += [value for point in points for value in point]
        colour = {"circle": "#0072B2", "square": "#E69F00"}[look]
        label = f"{name.removesuffix('_seconds')}, predicted {found.sure}"
        series.append(Series(label=label, points=points, mark=look, colour=colour, line=False))
    ends = [(value, value) for value in (min(both), max(both))]
    equal = Series(label="predicted as measured", points=ends, mark="", colour=INK, line=True)
    drawn = chart(
        [equal, *series],
        x="predicted before correction, seconds",
        y="measured, seconds",
        title="Predicted against measured seconds of whole layouts",
    )
    return drawn + legend([equal, *series])
