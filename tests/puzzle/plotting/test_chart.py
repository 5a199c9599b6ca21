"""Claims about charts."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from puzzle.plotting.chart import MARKS, Chart, Series

SPACE = "{http://www.w3.org/2000/svg}"
POINTS = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=5)


def chart(*points, **options):
    marks = [mark for mark in MARKS if mark != "none"]
    series = tuple(
        Series(label=f"<kind {i} & more>", points=each, mark=marks[i % len(marks)], line=i == 0)
        for i, each in enumerate(points)
    )
    return Chart(title="A chart", series=series, x="across", y="up", **options)


def texts(svg):
    return {element.text for element in ElementTree.fromstring(svg).iter(f"{SPACE}text")}


@settings(max_examples=15, deadline=None)
@example([[(1.5e-96, 0.0)]])
@example([[(0.0, 0.0), (3e9, -1e9)]])
@given(st.lists(POINTS, min_size=1, max_size=4))
def test_a_chart_is_valid_xml_the_same_twice_and_has_every_point_on_it(points):
    drawn = chart(*points)
    svg = drawn.svg()
    assert svg == drawn.svg()
    assert "nan" not in svg
    root = ElementTree.fromstring(svg)
    width, height = map(float, root.get("viewBox").split()[2:])
    for use in root.iter(f"{SPACE}use"):
        assert 0 <= float(use.get("x")) <= width
        assert 0 <= float(use.get("y")) <= height
    legend = 0 if len(points) == 1 else sum(1 for _ in points)
    assert len(list(root.iter(f"{SPACE}use"))) == sum(map(len, points)) + legend


def test_one_series_needs_no_legend_and_several_have_one():
    assert "<kind 0 & more>" not in texts(chart([(0, 1)]).svg())
    assert {"<kind 0 & more>", "<kind 1 & more>"} <= texts(chart([(0, 1)], [(1, 2)]).svg())


def test_a_line_is_labelled_and_names_replace_heights():
    drawn = chart([(0.0, 0), (1.0, 1)], vertical=0.5, vertical_label="half", names=("a", "b"))
    assert {"half", "a", "b", "across"} <= texts(drawn.svg())
    axes = drawn.figure().axes[0]
    (line,) = (line for line in axes.lines if line.get_gid() == "vertical")
    assert set(line.get_xdata()) == {0.5}
    top, bottom = (axes.transData.transform((0, y))[1] for y in (0, 1))
    assert top > bottom


@pytest.mark.parametrize("style", ["dark_background", "ggplot"])
def test_the_style_of_the_process_changes_nothing_and_is_not_changed(style):
    from matplotlib import rcParams
    from matplotlib import style as styles

    plain = chart([(0, 1), (2, 3)]).svg()
    with styles.context(style):
        before = dict(rcParams)
        assert chart([(0, 1), (2, 3)]).svg() == plain
        assert dict(rcParams) == before


def test_ink_is_that_of_the_page_and_nothing_is_painted_behind():
    svg = chart([(0, 1), (2, 3)], vertical=1.0).svg()
    assert "currentColor" in svg
    assert not re.search(r"#333333|#fff|white", svg)
