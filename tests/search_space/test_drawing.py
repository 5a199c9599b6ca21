"""Claims about the pictures of a layout."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from search_space import Block, Layout, ModelShape, layout_svg, plot_layout
from search_space.drawing import COLOURS, LEGEND, bars

SHAPE = ModelShape(layers=9, hidden=8, heads=4, head_dim=4, kv_heads=4, ffn_width=16, vocab=32)
LABELS = [
    "gqa4+gated16", "gqa1+gated8", "linear+gated4", "conv+linear", "none+gated40", "none+none",
    "gqa2+none", "gqa3h3+none", "gqa2h2w5+none",
]  # fmt: skip
LAYOUT = Layout(SHAPE, tuple(map(Block.from_label, LABELS)))


def test_the_bars_are_the_shares_of_the_parent_and_name_the_kind():
    attention, ffn = bars(LAYOUT)
    assert [(bar.kind, bar.share) for bar in attention] == [
        ("attention", 1.0), ("attention", 0.25), ("linear", 0), ("mixer", 1.0), ("none", 0),
        ("identity", 0), ("attention", 0.5), ("groups", 0.75), ("window", 0.5),
    ]  # fmt: skip
    assert [(bar.kind, bar.share) for bar in ffn] == [
        ("ffn", 1.0), ("ffn", 0.5), ("ffn", 0.25), ("linear", 0), ("wide", 2.5),
        ("identity", 0), ("none", 0), ("none", 0), ("none", 0),
    ]  # fmt: skip


SPACE = "{http://www.w3.org/2000/svg}"


def boxes(root):
    """Returns (left, top, right, bottom) of what is drawn, by place in the SVG."""
    defined = {id(e) for defs in root.iter(f"{SPACE}defs") for e in defs.iter()}
    found = []
    for path in root.iter(f"{SPACE}path"):
        if id(path) not in defined:
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.get("d"))]
            xs, ys = numbers[::2], numbers[1::2]
            found.append((min(xs), min(ys), max(xs), max(ys)))
    return found


def filled(svg, colour):
    """Returns heights of the bars of a colour, those of the legend left out."""
    root = ElementTree.fromstring(svg)
    paths = [p for p in root.iter(f"{SPACE}path") if f"fill: {colour.lower()}" in p.get("style")]
    rows = [[float(n) for n in re.findall(r"-?[\d.]+", path.get("d"))[1::2]] for path in paths]
    return [max(row) - min(row) for row in rows][:-1]


def test_the_svg_is_well_formed_and_has_bars_axes_and_a_legend_of_what_occurs():
    svg = layout_svg(LAYOUT, title="<a & b>")
    texts = [element.text for element in ElementTree.fromstring(svg).iter(f"{SPACE}text")]
    assert {"<a & b>", "attention", "FFN", "layer", "x2.5", "100%", *LEGEND.values()} <= {*texts}
    whole, *others = filled(svg, COLOURS["attention"])
    assert [height / whole for height in others] == pytest.approx([0.25, 0.5], abs=0.01)
    whole, *others = filled(svg, COLOURS["ffn"])
    assert [height / whole for height in others] == pytest.approx([0.5, 0.25], abs=0.01)
    plain = ElementTree.fromstring(layout_svg(Layout.parent(SHAPE)))
    assert LEGEND["linear"] not in [e.text for e in plain.iter(f"{SPACE}text")]
    assert svg == layout_svg(LAYOUT, title="<a & b>")


def test_kinds_differ_without_colour():
    """Hatching, crosses or rows tell apart every two kinds that share a row."""
    for kind in ("linear", "gqa3h3", "gqa4w5"):
        other = layout_svg(LAYOUT.replace(0, Block.from_label(f"{kind}+gated16")))
        hatched = [len(re.findall(r"fill: url\(#", svg)) for svg in (other, layout_svg(LAYOUT))]
        assert hatched[0] == hatched[1] + 1


@pytest.mark.parametrize("name", ["llama-3.3-nemotron-super-49b-v1", "decilm-7b"])
def test_the_notebook_shows_the_drawing_and_the_blocks(name):
    shown = Layout.published(name)._repr_html_()
    assert "<svg" in shown
    assert "<td>" in shown


def test_the_plot_has_a_bar_of_the_right_height_per_layer_and_is_written_as_png(tmp_path):
    figure = plot_layout(LAYOUT, tmp_path / "layout.png")
    heights = {
        (row, round(bar.get_x() + bar.get_width() / 2)): bar.get_height()
        for row, axis in enumerate(figure.axes)
        for bar in axis.patches
    }
    for row, drawn in enumerate(bars(LAYOUT)):
        for bar in drawn:
            if bar.kind not in ("none", "identity"):
                assert heights[row, bar.layer] == pytest.approx(bar.height)
    assert (tmp_path / "layout.png").read_bytes().startswith(b"\x89PNG")
    assert [axis.get_ylabel().split("\n")[0] for axis in figure.axes] == ["attention", "FFN"]


@pytest.mark.parametrize("width", [320, 360, 800])
def test_a_picture_of_a_given_width_keeps_all_it_shows_inside(width):
    deep = ModelShape(**{**SHAPE.to_dict(), "layers": 80})
    layout = Layout(deep, tuple(Block.from_label(LABELS[i % 9]) for i in range(80)))
    root = ElementTree.fromstring(layout_svg(layout, width=width))
    across, high = map(float, root.get("viewBox").split()[2:])
    assert across == width
    for left, top, right, bottom in boxes(root):
        assert 0 <= left <= right <= width
        assert 0 <= top <= bottom <= high
    legend = [e for e in root.iter(f"{SPACE}text") if e.text in LEGEND.values()]
    assert {e.text for e in legend} == set(LEGEND.values())
    for text in legend:
        assert float(text.get("y")) <= high
        # Arial's letters are half as wide as they are high, near enough.
        assert float(text.get("x")) + 5 * len(text.text) <= width


def test_two_pictures_on_one_page_share_no_id():
    both = layout_svg(LAYOUT) + layout_svg(LAYOUT, width=360)
    ids = re.findall(r' id="([^"]+)"', both)
    assert ids
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", both)) <= set(ids)
