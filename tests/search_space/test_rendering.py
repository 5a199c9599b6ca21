"""Claims about SVG made of matplotlib's figures."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

from search_space.rendering import (
    INK,
    TIPS,
    drawn_figure,
    figure_svg,
    house_style,
    layer_step,
    legend_columns,
)

SPACE = "{http://www.w3.org/2000/svg}"


def drawn(hatch="////"):
    with house_style():
        figure = drawn_figure(200, 100)
        axes = figure.subplots()
        axes.bar([0, 1], [1, 2], facecolor="none", edgecolor=INK, hatch=hatch)
        axes.scatter([0, 1], [1, 2], gid=TIPS)
    return figure


def test_equal_figures_give_equal_text_and_different_ones_share_no_id():
    one, again, other = (figure_svg(drawn(hatch), title="t") for hatch in ("//", "//", "xx"))
    assert one == again
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip((one, other), ids, strict=True):
        referred = {a or b for a, b in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)}
        assert referred == own


def test_nothing_of_the_file_is_left_that_a_page_would_stumble_over():
    root = ElementTree.fromstring(figure_svg(drawn(), title="a < b"))
    tags = {element.tag.removeprefix(SPACE) for element in root.iter()}
    assert not tags & {"style", "metadata", "image", "script"}
    assert not {"width", "height"} & set(root.attrib)
    assert root.find(f"{SPACE}title").text == "a < b"
    assert root.get("viewBox") == "0 0 200 100"
    for element in root.iter():
        assert not any("}" in name for name in element.attrib), "no other namespace"
        assert element.get("href", "#").startswith("#")


def test_paper_is_for_files_of_their_own():
    assert "background" not in figure_svg(drawn(), title="t")
    assert f"background:white;color:{INK}" in figure_svg(drawn(), title="t", paper="white")


def test_ink_and_text_are_those_of_the_page():
    svg = figure_svg(drawn(), title="t")
    assert INK not in svg
    assert "DejaVu" not in svg
    root = ElementTree.fromstring(svg)
    assert root.get("font-family").startswith("system-ui")
    assert "0.0" in {text.text for text in root.iter(f"{SPACE}text")}


def test_drawing_leaves_pyplot_alone_and_needs_it_not():
    code = (
        "import sys\n"
        "from search_space import Layout, layout_svg\n"
        "assert 'matplotlib' not in sys.modules\n"
        "layout_svg(Layout.published('decilm-7b'))\n"
        "print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_labels_of_layers_and_columns_of_a_legend_have_room():
    for layers in (1, 7, 32, 80, 126):
        assert layers / layer_step(layers) <= 20
    assert layer_step(20) == 1
    assert legend_columns(["parent", "child"], 400) == 2
    assert legend_columns(["a label of some length", "another one of that length"], 300) == 1
