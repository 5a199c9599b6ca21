"""Heat maps: alternatives down, layers across, described once for pages and notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from puzzle.storage.json_values import one_line
from search_space.rendering import (
    TEXT,
    TIPS,
    drawn_figure,
    figure_svg,
    house_style,
    layer_step,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

Cells = tuple[tuple[float | None, ...], ...]
WIDTH = 400.0
# Characters of a name; a longer one would leave the cells no room.
LONGEST = 32
# Visible on the lightest and on the darkest shade.
FRAME = "#D55E00"
# matplotlib would make a bitmap of a scale of 50 or more.
SHADES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """A heat map.

    Args:
        title: What it shows; read out by screen readers, and not drawn.
        rows: Names of the alternatives.
        cells: For each of them one value for each layer; None where there is none.
        chosen: For each layer, the rows that the child has there, which are framed.
        scale: Whether shades go by the value or by its logarithm.
        low: The value with the lightest shade, which smaller values share.
        high: The value with the darkest shade, which larger values share.
        unit: What the values are.
        notes: What else a cell shows on hover, by (row, layer).
    """

    title: str
    rows: tuple[str, ...]
    cells: Cells
    chosen: tuple[frozenset[int], ...]
    scale: Literal["linear", "log"]
    low: float
    high: float
    unit: str
    notes: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def figure(self) -> Figure:
        """Returns the heat map drawn with matplotlib, its scale below it."""
        layers, row = len(self.chosen), 13.0 if len(self.rows) <= 30 else 9.0
        with house_style():
            figure = drawn_figure(WIDTH, row * len(self.rows) + 74)
            axes = figure.subplots()
            cells = self._draw(axes)
            # Of nothing, an empty cell is drawn.
            axes.set_xlim(-0.5, max(layers, 1) - 0.5)
            axes.set_ylim(max(len(self.rows), 1) - 0.5, -0.5)
            axes.set_xticks(range(0, layers, layer_step(layers)))
            names = [one_line(name, most=LONGEST) for name in self.rows]
            axes.set_yticks(range(len(names)), names, fontsize=min(9.5, row - 1))
            axes.set_xlabel("layer", labelpad=0)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            bar = figure.colorbar(cells, ax=axes, location="bottom", aspect=34, fraction=0.1)
            middle = (self.low * self.high) ** 0.5 if self._log else (self.low + self.high) / 2
            ticks = (self.low, middle, self.high)
            bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
            bar.minorticks_off()
            bar.ax.tick_params(length=0)
            bar.outline.set_visible(False)
            if bar.solids is not None:
                bar.solids.set_edgecolor("face")
            figure.supxlabel(self.unit, fontsize=TEXT - 1)
        return figure

    def svg(self) -> str:
        """Returns the same as an SVG element; each cell shows its value on hover."""
        tips = [self._tip(row, layer, value) for row, layer, value in self._values()]
        return figure_svg(self.figure(), title=self.title, tips=tips)

    @property
    def _log(self) -> bool:
        return self.scale == "log" and self.high > self.low

    def _values(self) -> list[tuple[int, int, float]]:
        return [
            (row, layer, value)
            for row, line in enumerate(self.cells)
            for layer, value in enumerate(line)
            if value is not None
        ]

    def _tip(self, row: int, layer: int, value: float) -> str:
        note = self.notes.get((row, layer))
        text = f"layer {layer}, {self.rows[row]}: {value:.3g}"
        return f"{text} ({note})" if note else text

    def _draw(self, axes: Axes) -> PolyCollection:
        from matplotlib import colormaps
        from matplotlib.collections import PolyCollection
        from matplotlib.colors import LogNorm, Normalize
        from matplotlib.patches import Rectangle

        values = self._values()
        corners = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
        cells = PolyCollection(
            [[(layer + x, row + y) for x, y in corners] for row, layer, _ in values],
            array=[min(max(value, self.low), self.high) for _, _, value in values],
            cmap=colormaps["Blues"].resampled(SHADES),
            norm=(LogNorm if self._log else Normalize)(self.low, self.high),
            # Without an outline, gaps show between cells.
            edgecolors="face",
            linewidths=0.6,
            gid=TIPS,
        )
        axes.add_collection(cells)
        for layer, rows in enumerate(self.chosen):
            for row in sorted(rows):
                box = Rectangle((layer - 0.5, row - 0.5), 1, 1, clip_on=False, fill=False)
                box.set(edgecolor=FRAME, linewidth=1.6)
                axes.add_patch(box)
        return cells


def cells_by_name(layers: Sequence[Mapping[str, float]]) -> tuple[tuple[str, ...], Cells]:
    """Returns the names that occur, and for each its value in every layer or None."""
    rows = tuple(dict.fromkeys(name for layer in layers for name in layer))
    return rows, tuple(tuple(layer.get(name) for layer in layers) for name in rows)


def rows_named(
    rows: Sequence[str], names: Sequence[Iterable[str]], layers: int
) -> tuple[frozenset[int], ...]:
    """Returns for each layer the rows that have one of its names; none if no names are given."""
    at = {name: row for row, name in enumerate(rows)}
    if not names:
        return (frozenset(),) * layers
    return tuple(frozenset(at[name] for name in each if name in at) for each in names)
