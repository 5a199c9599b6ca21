"""The figures of the report with matplotlib, for notebooks and papers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from puzzle.figures.heat_map import HeatMap
from puzzle.figures.shades import STOPS
from puzzle.figures.svg import FRAME
from puzzle.report.cost_points import Cost
from puzzle.report.figures import LOOKS
from puzzle.report.frontier import KINDS, Frontier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle": "^",
    "cross": "x",
    "plus": "+",
    "ring": "o",
}


def frontier_figure(found: Frontier) -> Figure:
    """Returns the picture of quality against throughput."""
    figure = _figure((6.0, 4.2))
    axes = figure.subplots()
    for kind, label in KINDS.items():
        points = sorted((p.share, p.kl) for p in found.points if p.kind == kind)
        if points:
            axes.plot(
                *zip(*points, strict=True),
                label=label,
                linestyle="-" if kind == "frontier" else "",
                **_look(kind),
            )
    if found.wanted is not None:
        axes.axvline(found.wanted, color="#333333", linestyle="--", linewidth=1)
        top = axes.get_xaxis_transform()
        axes.text(found.wanted, 1.01, f"asked for {found.wanted:.3g}x", transform=top, ha="center")
    axes.set_xlabel(f"{found.axis}, times the parent's")
    axes.set_ylabel("KL to the parent, nats per token")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def heat_figure(grid: HeatMap) -> Figure:
    """Returns a heat map with the child's choices framed."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
    from matplotlib.patches import Rectangle

    layers = len(grid.chosen)
    figure = _figure((max(5.0, min(16.0, 2.5 + 0.14 * layers)), 1.8 + 0.17 * len(grid.rows)))
    axes = figure.subplots()
    colours = LinearSegmentedColormap.from_list(
        "puzzle", [tuple(c / 255 for c in s) for s in STOPS]
    )
    values = [[_seen(grid, value) for value in row] for row in grid.cells]
    norm = LogNorm if grid.scale == "log" and grid.high > grid.low else Normalize
    image = axes.imshow(
        values, cmap=colours, norm=norm(grid.low, grid.high), aspect="auto", interpolation="nearest"
    )
    for layer, rows in enumerate(grid.chosen):
        for row in rows:
            axes.add_patch(
                Rectangle(
                    (layer - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=FRAME, linewidth=1.2
                )
            )
    axes.set_yticks(range(len(grid.rows)), grid.rows, fontsize=7)
    axes.set_xlabel("layer")
    figure.colorbar(image, ax=axes, label=grid.unit, location="bottom", shrink=0.8, aspect=40)
    return figure


def costs_figure(costs: Sequence[Cost]) -> Figure:
    """Returns the picture of measured over predicted costs."""
    names = list(dict.fromkeys(cost.name for cost in costs))
    figure = _figure((6.0, 0.8 + 0.4 * len(names)))
    axes = figure.subplots()
    for who, kind, shift in (("parent", "parent", -0.12), ("child", "measured", 0.12)):
        chosen = [cost for cost in costs if cost.who == who]
        rows = [names.index(cost.name) + shift for cost in chosen]
        ratios = [cost.ratio for cost in chosen]
        axes.plot(ratios, rows, label=who, linestyle="", **_look(kind))
    axes.axvline(1.0, color="#333333", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("measured / predicted")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _figure(size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib: pip install 'puzzle-nas[plots]'; result.report() draws the "
            "same without it"
        ) from error
    return Figure(figsize=size, layout="constrained")


def _look(kind: str) -> dict[str, Any]:
    shape, colour = LOOKS[kind]
    fill = "white" if shape == "ring" else colour
    return {"marker": MARKS[shape], "color": colour, "markerfacecolor": fill, "markersize": 6}


def _seen(grid: HeatMap, value: float | None) -> float:
    if value is None:
        return float("nan")
    return min(grid.high, max(grid.low, value))
