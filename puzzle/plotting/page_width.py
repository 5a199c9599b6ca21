"""Figures as wide as a column, or the text, of a paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from puzzle.errors import SettingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches of one of two columns of a paper, and of both with the gap between them.
WIDTHS = {"column": 3.25, "page": 6.75}
# Points; smaller text is unreadable in print.
LEAST_TEXT = 7.0


def fit_width(figure: Figure, width: str | float | None) -> Figure:
    """Returns the figure, as wide as is asked for, with text that can be read in print.

    Args:
        figure: A figure whose layout adapts; it is changed.
        width: "column", "page", or inches; None leaves it as it is.

    Raises:
        SettingError: There is no such width.
    """
    if width is None:
        return figure
    inches = WIDTHS.get(width) if isinstance(width, str) else width
    if inches is None or not 1 <= inches <= 40:
        raise SettingError(f"width={width!r}; allowed: {', '.join(WIDTHS)}, or 1 to 40 inches")
    from matplotlib.text import Text

    now, height = figure.get_size_inches()
    scale = inches / now
    figure.draw_without_rendering()  # labels of ticks are there only then
    ticks = {}
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        labels = axis.get_ticklabels()
        ticks.update(dict.fromkeys(labels))
        if labels:
            axis.set_tick_params(labelsize=_size(float(labels[0].get_fontsize()), scale))
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in ticks:
            text.set_fontsize(_size(float(text.get_fontsize()), scale))
    # Text shrinks less than the rest, and so does the height.
    figure.set_size_inches(inches, height * (1 + min(1.0, scale)) / 2)
    return figure


def _size(points: float, scale: float) -> float:
    return points if scale >= 1 else max(min(points, LEAST_TEXT), points * scale)
