"""Charts: points and lines on two axes, described once for pages and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from search_space.rendering import (
    INK,
    drawn_figure,
    figure_svg,
    house_style,
    legend_columns,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Mark = Literal["circle", "square", "diamond", "triangle", "cross", "plus", "ring", "none"]
MARKS: dict[Mark, str] = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle": "^",
    "cross": "x",
    "plus": "+",
    "ring": "o",
    "none": "",
}
# About as wide as a phone, so that text is as large there as it is here.
WIDTH, HEIGHT = 360.0, 235.0
# Of a row of names, of a line of the legend, and of an axis with its name.
ROW, LINE, AXIS = 26.0, 15.0, 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one kind; kinds differ in shape, not only in colour.

    Args:
        label: Its name in the legend.
        points: (x, y) pairs.
        mark: The shape of the points.
        colour: Of marks and line.
        line: Whether the points are joined.
    """

    label: str
    points: Sequence[tuple[float, float]]
    mark: Mark = "none"
    colour: str = INK
    line: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart.

    Args:
        title: What it shows; read out by screen readers, and not drawn.
        series: What is drawn, the last on top.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        vertical: An x that a line marks; None for no line.
        vertical_label: What the line says.
        names: Names of the heights 0, 1, 2, ... from the top down, if heights are not a quantity.
    """

    title: str
    series: tuple[Series, ...]
    x: str
    y: str = ""
    vertical: float | None = None
    vertical_label: str = ""
    names: tuple[str, ...] = ()

    def figure(self) -> Figure:
        """Returns the chart drawn with matplotlib."""
        labels = [each.label for each in self.series] if len(self.series) > 1 else []
        columns = legend_columns(labels, WIDTH) if labels else 1
        height = ROW * len(self.names) + AXIS if self.names else HEIGHT
        with house_style():
            figure = drawn_figure(WIDTH, height + LINE * -(-len(labels) // columns))
            axes = figure.subplots()
            self._draw(axes)
            if labels:
                figure.legend(
                    loc="outside lower left", ncols=columns, columnspacing=1.2, handlelength=1.6
                )
        return figure

    def svg(self) -> str:
        """Returns the same as an SVG element."""
        return figure_svg(self.figure(), title=self.title)

    def _draw(self, axes: Axes) -> None:
        if self.vertical is not None:
            axes.axvline(
                self.vertical,
                color=INK,
                linewidth=1,
                linestyle="--" if self.vertical_label else "-",
                gid="vertical",
            )
        for each in self.series:
            axes.plot(
                [x for x, _ in each.points],
                [y for _, y in each.points],
                label=each.label,
                color=each.colour,
                linestyle="-" if each.line else "",
                linewidth=1.5,
                marker=MARKS[each.mark],
                markersize=9 if each.mark == "ring" else 6,
                markeredgewidth=1.5,
                markerfacecolor="none" if each.mark == "ring" else each.colour,
                clip_on=False,
            )
        axes.set_xlabel(self.x)
        axes.set_ylabel(self.y)
        axes.grid(color=INK, alpha=0.15, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        # Powers of ten only for numbers that would otherwise take too much room.
        axes.ticklabel_format(axis="x", useOffset=False, scilimits=(-4, 7))
        if self.names:
            axes.set_yticks(range(len(self.names)), self.names)
            axes.set_ylim(len(self.names) - 0.5, -0.5)
            axes.grid(visible=False, axis="y")
        else:
            axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-4, 5))
        if self.vertical is not None and self.vertical_label:
            place = axes.get_xaxis_transform()
            axes.text(self.vertical, 1.02, self.vertical_label, transform=place, ha="center")
