"""Pictures of a layout: one bar per layer, attention above the FFN.

The height of a bar is the share of the parent's KV heads or FFN width that the layer keeps. The
kinds differ in shape and hatching as well as in colour (Okabe-Ito's palette), so that they can be
told apart in black and white.
"""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search_space.blocks import Block, ModelShape
from search_space.layout import Layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"attention": "#0072B2", "ffn": "#E69F00", "wide": "#A03C00", "linear": "#FFFFFF"}
EDGE, PALE = "#333333", "#EBEBEB"
LEGEND = {
    "attention": "softmax attention",
    "ffn": "gated FFN",
    "wide": "wider than the parent (how many times)",
    "linear": "linear map (height without meaning)",
    "none": "removed",
    "identity": "identity layer",
}
LINEAR_HEIGHT, WIDE_HEIGHT, ROW_TOP = 0.3, 1.0, 1.3


@dataclass(frozen=True, slots=True)
class Bar:
    """One sublayer as it is drawn.

    Args:
        layer: The layer.
        kind: A key of `LEGEND`.
        share: KV heads or FFN width over the parent's.
    """

    layer: int
    kind: str
    share: float

    @property
    def height(self) -> float:
        """Height of the bar; 1 is the parent's."""
        fixed = {"linear": LINEAR_HEIGHT, "wide": WIDE_HEIGHT, "none": 0.0, "identity": 0.0}
        return fixed.get(self.kind, self.share)


def bars(layout: Layout) -> tuple[tuple[Bar, ...], tuple[Bar, ...]]:
    """Returns the bars of the attentions and those of the FFNs, one per layer."""
    rows = [_pair(layout.shape, layer, block) for layer, block in enumerate(layout.blocks)]
    return tuple(row[0] for row in rows), tuple(row[1] for row in rows)


def _pair(shape: ModelShape, layer: int, block: Block) -> tuple[Bar, Bar]:
    if block.attention.kind == block.ffn.kind == "none":
        return Bar(layer, "identity", 0.0), Bar(layer, "identity", 0.0)
    return (
        _bar(layer, "attention", block.attention.kind, block.attention.kv_heads, shape.kv_heads),
        _bar(layer, "ffn", block.ffn.kind, block.ffn.width, shape.ffn_width),
    )


def _bar(layer: int, half: str, kind: str, size: int | None, own: int) -> Bar:
    if size is None:
        return Bar(layer, kind, 0.0)
    return Bar(layer, half if size <= own else "wide", size / own)


def _kinds(layout: Layout) -> list[str]:
    """Returns the kinds that occur, in the order of the legend."""
    found = {bar.kind for row in bars(layout) for bar in row}
    return [kind for kind in LEGEND if kind in found]


def _step(layers: int) -> int:
    """Returns the distance of the labelled layers."""
    return next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if layers <= 20 * step)


# SVG, in pixels.
LEFT, RIGHT, TOP, ROW, GAP, BOTTOM, LINE = 64, 16, 30, 90, 28, 66, 16
HATCH = "puzzle-hatch"


def layout_svg(layout: Layout, *, title: str | None = None, width: float | None = None) -> str:
    """Returns a layout drawn as SVG.

    Args:
        layout: The layout.
        title: The line above it; its size in layers and parameters if not given.
        width: Its width in pixels, such as 360 for a phone; by default what the layers need.
    """
    layers = layout.shape.layers
    # Ids are those of a whole page, and a picture that is hidden hides its patterns from others.
    name = HATCH if width is None else f"{HATCH}-{width:g}"
    if width is None:
        pitch = max(6.0, min(24.0, 760 / layers))
        width = LEFT + RIGHT + max(pitch * layers, 420)
    else:
        pitch = min(24.0, (width - LEFT - RIGHT) / layers)
    legend, rows = _svg_legend(_kinds(layout), TOP + 2 * ROW + GAP + 52, width)
    height = TOP + 2 * ROW + GAP + BOTTOM + LINE * (rows - 1)
    title = title or f"{layout.shape.layers} layers, {layout.parameters():,} parameters"
    parts = [_text(LEFT, 18, title, size=13)]
    for row, (label, drawn) in enumerate(zip(_ROW_LABELS, bars(layout), strict=True)):
        base = TOP + ROW + row * (ROW + GAP)
        parts += _svg_axis(base, pitch * layout.shape.layers, label)
        parts += [part for bar in drawn for part in _svg_bar(bar, base, pitch)]
    base = TOP + 2 * ROW + GAP
    for layer in range(0, layout.shape.layers, _step(layout.shape.layers)):
        parts.append(_text(LEFT + (layer + 0.5) * pitch, base + 14, str(layer), anchor="middle"))
    parts.append(_text(LEFT, base + 32, "layer"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width:{width:g}px;width:100%" role="img" font-family="sans-serif">'
        f'<title>{html.escape(title)}</title><rect width="100%" height="100%" fill="white"/>'
        f"{_SVG_HATCH}{''.join([*parts, *legend])}</svg>"
    ).replace(HATCH, name)


_ROW_LABELS = ("attention", "FFN")
_SVG_HATCH = (
    f'<defs><pattern id="{HATCH}" width="4" height="4" patternUnits="userSpaceOnUse">'
    f'<rect width="4" height="4" fill="white"/><path d="M0 4L4 0" stroke="{EDGE}"/>'
    "</pattern></defs>"
)


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 10) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{EDGE}">{html.escape(text)}</text>'
    )


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    fill = f"url(#{HATCH})" if kind == "linear" else COLOURS.get(kind, PALE)
    stroke = PALE if kind == "identity" else EDGE
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="0.5"/>'
    )


def _cross(x: float, y: float, half: float) -> str:
    path = f"M{x - half:.2f} {y - half:.2f}l{2 * half:.2f} {2 * half:.2f}"
    path += f"M{x - half:.2f} {y + half:.2f}l{2 * half:.2f} {-2 * half:.2f}"
    return f'<path d="{path}" stroke="{EDGE}" stroke-width="1" fill="none"/>'


def _svg_axis(base: float, width: float, label: str) -> Iterator[str]:
    unit = ROW / ROW_TOP
    for share in (0.0, 0.5, 1.0):
        y = base - share * unit
        yield f'<path d="M{LEFT} {y:.2f}h{width:g}" stroke="#CCCCCC" stroke-width="0.5"/>'
        yield _text(LEFT - 6, y + 3, f"{share:.0%}", anchor="end")
    yield (
        f'<text transform="translate(14 {base - unit / 2:.2f}) rotate(-90)" font-size="11" '
        f'text-anchor="middle" fill="{EDGE}">{label}</text>'
    )


def _svg_bar(bar: Bar, base: float, pitch: float) -> Iterator[str]:
    unit, x = ROW / ROW_TOP, LEFT + bar.layer * pitch
    if bar.kind == "identity":
        yield _rect(x, base - unit, pitch, unit, bar.kind)
    elif bar.kind == "none":
        yield _cross(x + pitch / 2, base - 4, min(2.5, pitch / 3))
    else:
        yield _rect(
            x + 0.1 * pitch, base - bar.height * unit, 0.8 * pitch, bar.height * unit, bar.kind
        )
    if bar.kind == "wide":
        at = f"translate({x + pitch / 2 + 3:.2f} {base - unit - 3:.2f}) rotate(-90)"
        yield f'<text transform="{at}" font-size="9" fill="{EDGE}">x{bar.share:.1f}</text>'


def _svg_legend(kinds: list[str], y: float, width: float) -> tuple[list[str], int]:
    """Returns the legend's parts and how many lines it takes."""
    parts, x, rows = [], float(LEFT), 1
    for kind in kinds:
        wide = 26 + 5.6 * len(LEGEND[kind])
        if x + wide > width and x > LEFT:
            x, y, rows = float(LEFT), y + LINE, rows + 1
        parts.append(_cross(x + 5, y - 4, 3) if kind == "none" else _rect(x, y - 9, 10, 10, kind))
        parts.append(_text(x + 14, y, LEGEND[kind]))
        x += wide
    return parts, rows


def plot_layout(
    layout: Layout, path: str | os.PathLike[str] | None = None, *, title: str | None = None
) -> Figure:
    """Returns a layout drawn with matplotlib, and writes it where a path is given.

    Args:
        layout: The layout.
        path: A file whose ending is one of matplotlib's formats, such as ".png" or ".pdf".
        title: The line above it; its size in layers and parameters if not given.

    Raises:
        ImportError: matplotlib is not installed; the message says how to install it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plot_layout needs matplotlib: pip install 'puzzle-nas[plots]'; layout_svg() draws "
            "the same without it"
        ) from error
    layers = layout.shape.layers
    figure = Figure(figsize=(max(6.0, min(16.0, 1.5 + 0.11 * layers)), 4.2), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for axis, label, drawn in zip(axes, _ROW_LABELS, bars(layout), strict=True):
        _plot_row(axis, drawn, layers)
        axis.set_ylabel(f"{label}\n(share of the parent)")
    axes[1].set_xlabel("layer")
    axes[1].set_xticks(range(0, layers, _step(layers)))
    figure.suptitle(title or f"{layers} layers, {layout.parameters():,} parameters", fontsize=11)
    handles = [_handle(kind) for kind in _kinds(layout)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _plot_row(axis: Any, drawn: tuple[Bar, ...], layers: int) -> None:
    for kind in LEGEND:
        chosen = [bar for bar in drawn if bar.kind == kind]
        at, heights = [bar.layer for bar in chosen], [bar.height for bar in chosen]
        if not chosen:
            continue
        if kind == "none":
            axis.plot(at, [0.04] * len(at), "x", color=EDGE, markersize=3.5, markeredgewidth=0.9)
        elif kind == "identity":
            axis.bar(at, [1.0] * len(at), width=1.0, color=PALE)
        else:
            axis.bar(at, heights, width=0.8, **_style(kind))
        for bar in chosen if kind == "wide" else ():
            axis.text(bar.layer, 1.03, f"x{bar.share:.1f}", rotation=90, ha="center", fontsize=7)
    axis.set_xlim(-0.8, layers - 0.2)
    axis.set_ylim(0, ROW_TOP)
    axis.set_yticks([0, 0.5, 1.0], ["0%", "50%", "100%"])
    axis.spines[["top", "right"]].set_visible(False)


def _style(kind: str) -> dict[str, Any]:
    hatch = {"linear": "/////", "wide": "xx"}.get(kind)
    return {"facecolor": COLOURS[kind], "edgecolor": EDGE, "linewidth": 0.4, "hatch": hatch}


def _handle(kind: str) -> Any:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    make: dict[str, Callable[[], Any]] = {
        "none": lambda: Line2D([], [], linestyle="", marker="x", color=EDGE, label=LEGEND[kind]),
        "identity": lambda: Patch(facecolor=PALE, label=LEGEND[kind]),
    }
    return make.get(kind, lambda: Patch(label=LEGEND[kind], **_style(kind)))()
