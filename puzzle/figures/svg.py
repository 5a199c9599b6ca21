"""Charts as SVG: points and lines on two axes, and heat maps.

They are drawn 400 units wide, so that their text is still legible on a phone.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from puzzle.figures.heat_map import HeatMap
from puzzle.figures.shades import hex_shade, position

WIDTH, HEIGHT = 400, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 44
INK, FAINT = "#333333", "#DDDDDD"
# Seen on the lightest and on the darkest shade.
FRAME = "#D55E00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one kind.

    Args:
        label: Its name in the legend.
        points: (x, y) pairs.
        mark: "circle", "square", "diamond", "triangle", "cross", "plus", "ring", or "" for none.
        colour: Of marks and line.
        line: Whether the points are joined.
    """

    label: str
    points: Sequence[tuple[float, float]]
    mark: str = ""
    colour: str = INK
    line: bool = False


def chart(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    title: str,
    vertical: tuple[float, str] | None = None,
) -> str:
    """Returns a chart without its legend.

    Args:
        series: What is drawn, the last on top.
        x: Name of the horizontal axis.
        y: Name of the vertical axis.
        title: What a screen reader says.
        vertical: A dashed line at an x, and what it says.
    """
    xs = [point[0] for each in series for point in each.points]
    xs += [vertical[0]] if vertical else []
    ys = [point[1] for each in series for point in each.points]
    frame = _Frame(ticks(min(xs), max(xs)), ticks(min(ys), max(ys)))
    parts = [*frame.axes(x, y)]
    if vertical:
        parts += frame.vertical(*vertical)
    for each in series:
        at = [(frame.x(px), frame.y(py)) for px, py in each.points]
        if each.line:
            path = "L".join(f"{px:.1f} {py:.1f}" for px, py in at)
            parts.append(
                f'<path d="M{path}" fill="none" stroke="{each.colour}" stroke-width="1.5"/>'
            )
        parts += [mark(each.mark, px, py, each.colour) for px, py in at if each.mark]
    return picture(WIDTH, HEIGHT, title, parts)


def legend(series: Iterable[Series]) -> str:
    """Returns the marks and labels of series as an HTML list, which wraps by itself."""
    items = []
    for each in series:
        line = f'<path d="M0 6h16" stroke="{each.colour}" stroke-width="1.5"/>' if each.line else ""
        shown = line + (mark(each.mark, 8, 6, each.colour) if each.mark else "")
        key = f'<svg width="16" height="12" aria-hidden="true">{shown}</svg>'
        items.append(f"<li>{key} {html.escape(each.label)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def heat(grid: HeatMap, *, title: str) -> str:
    """Returns a heat map with its scale below it; the child's choices are framed.

    Args:
        grid: What is drawn.
        title: What a screen reader says.
    """
    layers, high = len(grid.chosen), 13 if len(grid.rows) <= 30 else 9
    left = 8 + 5.3 * max(len(name) for name in grid.rows)
    pitch = (WIDTH - left - 4) / layers
    parts = []
    for row, (name, values) in enumerate(zip(grid.rows, grid.cells, strict=True)):
        y = row * high + 4
        parts.append(text(left - 5, y + high - 3, name, anchor="end", size=min(9.5, high - 1)))
        for layer, value in enumerate(values):
            if value is not None:
                parts.append(_cell(grid, row, layer, value, (left + layer * pitch, y, pitch, high)))
    for layer, rows in enumerate(grid.chosen):
        for row in rows:
            at = f'x="{left + layer * pitch + 0.5:.2f}" y="{row * high + 4.5:.2f}"'
            size = f'width="{pitch - 1:.2f}" height="{high - 1}"'
            parts.append(f'<rect {at} {size} fill="none" stroke="{FRAME}" stroke-width="1.6"/>')
    base = len(grid.rows) * high + 4
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if layers <= 16 * s)
    for layer in range(0, layers, step):
        parts.append(text(left + (layer + 0.5) * pitch, base + 12, str(layer), anchor="middle"))
    parts.append(text(left - 5, base + 12, "layer", anchor="end"))
    parts += _scale(grid, base + 24)
    return picture(WIDTH, base + 66, title, parts)


def _cell(
    grid: HeatMap, row: int, layer: int, value: float, box: tuple[float, float, float, float]
) -> str:
    x, y, width, height = box
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" '
        f'fill="{hex_shade(position(grid, value))}">'
        f"<title>layer {layer}, {html.escape(grid.rows[row])}: {value:.3g}</title></rect>"
    )


def _scale(grid: HeatMap, y: float) -> Iterator[str]:
    """A bar of shades, with the values at its ends and in its middle."""
    steps, left, width = 60, 20.0, WIDTH - 40.0
    for step in range(steps):
        yield (
            f'<rect x="{left + step * width / steps:.2f}" y="{y:g}" '
            f'width="{width / steps + 0.3:.2f}" height="9" fill="{hex_shade(step / (steps - 1))}"/>'
        )
    middle = math.sqrt(grid.low * grid.high) if grid.scale == "log" else (grid.low + grid.high) / 2
    for share, value in ((0.0, grid.low), (0.5, middle), (1.0, grid.high)):
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[share]
        yield text(left + share * width, y + 21, f"{value:.2g}", anchor=anchor)
    yield text(WIDTH / 2, y + 36, grid.unit, anchor="middle")


class _Frame:
    """Two axes; ticks are inside the outermost of them."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.xs, self.ys = xs, ys

    def x(self, value: float) -> float:
        share = (value - self.xs[0]) / (self.xs[-1] - self.xs[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.ys[0]) / (self.ys[-1] - self.ys[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def axes(self, x: str, y: str) -> Iterator[str]:
        low, high = HEIGHT - BOTTOM, WIDTH - RIGHT
        for value in self.xs:
            at = self.x(value)
            yield f'<path d="M{at:.1f} {TOP}V{low}" stroke="{FAINT}" stroke-width="0.7"/>'
            yield text(at, low + 14, _number(value, self.xs), anchor="middle")
        for value in self.ys:
            at = self.y(value)
            yield f'<path d="M{LEFT} {at:.1f}H{high}" stroke="{FAINT}" stroke-width="0.7"/>'
            yield text(LEFT - 6, at + 3.5, _number(value, self.ys), anchor="end")
        yield text((LEFT + high) / 2, HEIGHT - 8, x, anchor="middle", size=11)
        yield (
            f'<text transform="translate(12 {(TOP + low) / 2:.1f}) rotate(-90)" font-size="11" '
            f'text-anchor="middle" fill="{INK}">{html.escape(y)}</text>'
        )

    def vertical(self, value: float, label: str) -> Iterator[str]:
        at = self.x(value)
        yield (
            f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{INK}" stroke-width="1" '
            'stroke-dasharray="4 3"/>'
        )
        right = at > (LEFT + WIDTH) / 2
        shift, anchor = (-4, "end") if right else (4, "start")
        yield text(at + shift, TOP + 10, label, anchor=anchor)


def ticks(low: float, high: float) -> list[float]:
    """Returns round numbers, few of them, that reach from no more than low to no less than high.

    Example:
        >>> ticks(0.0, 0.9)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if span / (s * power) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.10g}") for k in range(first, max(last, first + 1) + 1)]


def _number(value: float, among: Sequence[float]) -> str:
    step = among[1] - among[0]
    if max(map(abs, among)) >= 1e5:
        return f"{value:.3g}"
    # 0.25 needs a digit more than its power of ten says.
    digits = next((d for d in range(8) if abs(round(step, d) - step) < 1e-9 * step), 8)
    return f"{value:.{digits}f}"


def picture(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """Returns an SVG element that is as wide as its place allows."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" font-family="sans-serif">'
        f"<title>{html.escape(title)}</title>{''.join(parts)}</svg>"
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", size: float = 10) -> str:
    """Returns a text element."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" '
        f'fill="{INK}">{html.escape(words)}</text>'
    )


def mark(kind: str, x: float, y: float, colour: str) -> str:
    """Returns a mark of about nine units across; kinds differ in shape, not only in colour."""
    paths = {
        "square": "m-3.5 -3.5h7v7h-7z",
        "diamond": "m0 -5l5 5l-5 5l-5 -5z",
        "triangle": "m0 -5l4.5 8h-9z",
        "cross": "m-3.5 -3.5l7 7m0 -7l-7 7",
        "plus": "m-4 0h8m-4 -4v8",
    }
    if kind in ("circle", "ring"):
        fill = colour if kind == "circle" else "white"
        radius = 3 if kind == "circle" else 4
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{colour}" '
            'stroke-width="1.5"/>'
        )
    fill = "none" if kind in ("cross", "plus") else colour
    return (
        f'<path d="M{x:.1f} {y:.1f}{paths[kind]}" fill="{fill}" stroke="{colour}" '
        'stroke-width="1.5"/>'
    )
