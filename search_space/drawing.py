"""Pictures of a layout: one bar per layer, attention above the FFN.

The height of a bar is the share of the parent's KV heads or FFN width that the layer keeps. The
kinds differ in shape and hatching as well as in colour (Okabe-Ito's palette), so that they can be
told apart in black and white.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from search_space.blocks import MIXERS, Block
from search_space.rendering import (
    INK,
    TEXT,
    drawn_figure,
    figure_svg,
    house_style,
    layer_step,
    legend_columns,
    printable,
)
from search_space.shape import ModelShape
from search_space.user_files import file_named, save_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

COLOURS = {
    "attention": "#0072B2",
    "groups": "#56B4E9",
    "window": "#009E73",
    "mixer": "#CC79A7",
    "ffn": "#E69F00",
    "wide": "#A03C00",
}
HATCHES = {
    "groups": "\\\\\\",
    "window": "......",
    "linear": "//////",
    "wide": "xxxx",
    "mixer": "||||",
}
LEGEND = {
    "attention": "softmax attention",
    "groups": "query heads removed, too",
    "window": "within a window",
    "mixer": "the mixer of a hybrid",
    "ffn": "gated FFN",
    "wide": "wider than the parent (how many times)",
    "linear": "linear map (height without meaning)",
    "none": "removed",
    "identity": "identity layer",
}
LINEAR_HEIGHT, WIDE_HEIGHT, ROW_TOP = 0.3, 1.0, 1.35
# In pixels: beside the bars, most of one bar, the picture without its legend, a line of that.
SIDES, PITCH, HEIGHT, LINE = 80.0, 24.0, 250.0, 16.0
# Less has no room for a bar; more is no picture any more, and takes a page's memory.
_NARROWEST, _WIDEST, _MOST_DRAWN = 100, 10_000, 1024


class LayoutLike(Protocol):
    """What a drawing needs of a `Layout`, which shows this drawing in a notebook."""

    @property
    def shape(self) -> ModelShape:
        """The parent's shape."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """One block per layer."""

    def parameters(self) -> int:
        """Returns the number of parameters."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One sublayer as it is drawn.

    Args:
        layer: The layer.
        kind: A key of `LEGEND`; "absent" where the parent has none either.
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


def bars(layout: LayoutLike) -> tuple[tuple[Bar, ...], tuple[Bar, ...]]:
    """Returns the bars of the attentions and those of the FFNs, one per layer."""
    rows = [_pair(layout.shape, layer, block) for layer, block in enumerate(layout.blocks)]
    return tuple(row[0] for row in rows), tuple(row[1] for row in rows)


def _pair(shape: ModelShape, layer: int, block: Block) -> tuple[Bar, Bar]:
    if block.attention.kind == block.ffn.kind == "none":
        return Bar(layer, "identity", 0.0), Bar(layer, "identity", 0.0)
    own, attention = shape.parent_blocks[layer], block.attention
    named = "window" if attention.window else "groups" if attention.heads else "attention"
    kv_heads = own.attention.kv_heads or shape.kv_heads
    left = _bar(layer, named, attention.kind, attention.kv_heads, kv_heads)
    channels, most = block.ffn.channels or None, own.ffn.channels or shape.ffn_width
    right = _bar(layer, "ffn", block.ffn.kind, channels, most)
    if attention.kind in MIXERS:
        left = Bar(layer, "mixer", 1.0)
    absent = Bar(layer, "absent", 0.0)
    return (
        absent if own.attention.kind == attention.kind == "none" else left,
        absent if own.ffn.kind == block.ffn.kind == "none" else right,
    )


def _bar(layer: int, half: str, kind: str, size: int | None, own: int) -> Bar:
    if size is None:
        return Bar(layer, kind, 0.0)
    return Bar(layer, half if size <= own else "wide", size / own)


def _kinds(layout: LayoutLike) -> list[str]:
    """Returns the kinds that occur, in the order of the legend."""
    kinds = {bar.kind for row in bars(layout) for bar in row}
    return [kind for kind in LEGEND if kind in kinds]


def layout_svg(
    layout: LayoutLike,
    *,
    title: str | None = None,
    width: float | None = None,
    paper: str | None = None,
) -> str:
    """Returns a layout drawn as SVG, its text in the colour of the page around it.

    Args:
        layout: The layout.
        title: The line above it; its size in layers and parameters if not given.
        width: Its width in pixels, such as 360 for a phone; by default what the layers need.
        paper: Colour of the background, for a file of its own that may be shown on any.
    """
    title = title or _size(layout)
    return figure_svg(_figure(layout, title, width), title=title, paper=paper)


def plot_layout(
    layout: LayoutLike, path: str | os.PathLike[str] | None = None, *, title: str | None = None
) -> Figure:
    """Returns a layout drawn with matplotlib, and writes it where a path is given.

    Args:
        layout: The layout.
        path: A file whose ending is one of matplotlib's formats, such as ".png" or ".pdf".
        title: The line above it; its size in layers and parameters if not given.
    """
    figure = _figure(layout, title or _size(layout), None)
    if path is not None:
        with house_style():
            # matplotlib adds its own ending to a name without one.
            save_file(path if file_named(path).suffix else f"{path}.png", figure.savefig)
    return figure


def diff_svg(
    one: LayoutLike,
    other: LayoutLike,
    *,
    names: tuple[str, str] = ("one", "other"),
    paper: str | None = None,
) -> str:
    """Returns two layouts of one parent drawn below each other, the layers that differ shaded.

    Args:
        one: A layout.
        other: Another of the same parent.
        names: What to call them.
        paper: Colour of the background, for a file of its own.

    Raises:
        ValueError: They are of different parents.
    """
    figure = plot_diff(one, other, names=names)
    return figure_svg(figure, title=f"{names[0]} and {names[1]}", paper=paper)


def plot_diff(
    one: LayoutLike, other: LayoutLike, *, names: tuple[str, str] = ("one", "other")
) -> Figure:
    """Returns the picture of `diff_svg` as matplotlib draws it; arguments are the same."""
    if one.shape != other.shape:
        raise ValueError("the two layouts have different shapes; compare within one parent")
    pairs = enumerate(zip(one.blocks, other.blocks, strict=True))
    different = [layer for layer, (a, b) in pairs if a != b]
    kinds = [kind for kind in LEGEND if kind in {*_kinds(one), *_kinds(other)}]
    layers, half = one.shape.layers, HEIGHT - 20
    width = SIDES + max(320.0, layers * max(6.0, min(PITCH, 760 / layers)))
    columns = legend_columns([LEGEND[kind] for kind in kinds], width)
    with house_style():
        figure = drawn_figure(width, 2 * half + LINE * -(-len(kinds) // columns))
        axes = figure.subplots(4, 1, sharex=True)
        rows = [row for layout in (one, other) for row in bars(layout)]
        for axis, label, row in zip(axes, ("attention", "FFN") * 2, rows, strict=True):
            _draw_row(axis, row)
            axis.set_ylabel(label)
            for layer in different:
                axis.axvspan(layer - 0.5, layer + 0.5, color=INK, alpha=0.12, linewidth=0, zorder=0)
        for axis, layout, name in zip(axes[::2], (one, other), names, strict=True):
            axis.set_title(printable(f"{name}: {_size(layout)}"), loc="left")
        _finish(figure, axes[3], kinds, (layers, width, columns))
    return figure


def _finish(figure: Figure, lowest: Axes, kinds: list[str], sizes: tuple[int, float, int]) -> None:
    """Adds the axis of layers and the legend."""
    layers, width, columns = sizes
    # A few layers are no reason for bars as wide as a page.
    lowest.set_xlim(-0.5, max(layers, (width - SIDES) / PITCH) - 0.5)
    lowest.set_xticks(range(0, layers, layer_step(layers)))
    lowest.set_xlabel("layer", loc="left")
    figure.legend(
        handles=[_handle(kind) for kind in kinds],
        loc="outside lower left",
        ncols=columns,
        handlelength=1.0,
        columnspacing=1.4,
    )


def _size(layout: LayoutLike) -> str:
    return f"{layout.shape.layers} layers, {layout.parameters():,} parameters"


def _figure(layout: LayoutLike, title: str, width: float | None) -> Figure:
    layers, kinds = layout.shape.layers, _kinds(layout)
    if width is not None and not _NARROWEST <= width <= _WIDEST:
        raise ValueError(f"width={width}; allowed: {_NARROWEST} to {_WIDEST} pixels")
    if layers > _MOST_DRAWN:
        raise ValueError(f"{layers} layers; a drawing has room for {_MOST_DRAWN}")
    width = width or SIDES + max(320.0, layers * max(6.0, min(PITCH, 760 / layers)))
    labels = [LEGEND[kind] for kind in kinds]
    columns = legend_columns(labels, width)
    with house_style():
        figure = drawn_figure(width, HEIGHT + LINE * -(-len(labels) // columns))
        axes = figure.subplots(2, 1, sharex=True)
        for axis, label, row in zip(axes, ("attention", "FFN"), bars(layout), strict=True):
            _draw_row(axis, row)
            axis.set_ylabel(label)
        axes[0].set_title(printable(title), loc="left")
        _finish(figure, axes[1], kinds, (layers, width, columns))
    return figure


def _draw_row(axis: Axes, row: tuple[Bar, ...]) -> None:
    for kind in LEGEND:
        drawn = [bar for bar in row if bar.kind == kind]
        at, heights = [bar.layer for bar in drawn], [bar.height for bar in drawn]
        if not drawn:
            continue
        if kind == "none":
            axis.plot(at, [0.07] * len(at), "x", color=INK, markersize=4, markeredgewidth=1.0)
        elif kind == "identity":
            axis.bar(at, [1.0] * len(at), width=1.0, **_style(kind))
        else:
            axis.bar(at, heights, width=0.8, **_style(kind))
        for bar in drawn if kind == "wide" else ():
            times, size = f"x{bar.share:.1f}", TEXT - 1
            axis.text(bar.layer, 1.04, times, rotation=90, ha="center", fontsize=size)
    axis.set_ylim(-0.02, ROW_TOP)
    axis.set_yticks([0, 0.5, 1.0], ["0%", "50%", "100%"])
    axis.hlines((0, 0.5, 1), -0.5, len(row) - 0.5, color=INK, alpha=0.2, linewidth=0.5, zorder=0)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _style(kind: str) -> dict[str, Any]:
    if kind == "identity":
        return {"color": INK, "alpha": 0.1, "linewidth": 0}
    fill, hatch = COLOURS.get(kind, "none"), HATCHES.get(kind)
    return {"facecolor": fill, "edgecolor": INK, "linewidth": 0.5, "hatch": hatch}


def _handle(kind: str) -> Line2D | Patch:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if kind == "none":
        return Line2D([], [], linestyle="", marker="x", color=INK, label=LEGEND[kind])
    return Patch(label=LEGEND[kind], **_style(kind))
