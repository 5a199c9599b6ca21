"""Claims about heat maps."""

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puzzle.plotting.heat_map import FRAME, HeatMap, cells_by_name, rows_named

SPACE = "{http://www.w3.org/2000/svg}"


def heat_map(cells, chosen=None, **options):
    given = {"title": "t", "scale": "linear", "low": 0.0, "high": 1.0, "unit": "nats", **options}
    rows = tuple(f"row{i}" for i in range(len(cells)))
    empty = (frozenset(),) * len(cells[0])
    return HeatMap(rows=rows, cells=cells, chosen=chosen or empty, **given)


def fills(drawn):
    """Returns the colour of each cell by what it says."""
    paths = ElementTree.fromstring(drawn.svg()).iter(f"{SPACE}path")
    said = [(path.find(f"{SPACE}title"), path.get("style")) for path in paths]
    return {title.text: style.split(";")[0] for title, style in said if title is not None}


def test_every_known_cell_says_its_layer_row_and_value_and_others_are_left_out():
    drawn = heat_map(((0.25, None), (None, 0.5)), notes={(1, 1): "exact"})
    assert set(fills(drawn)) == {"layer 0, row0: 0.25", "layer 1, row1: 0.5 (exact)"}


def test_the_rows_of_the_child_are_framed():
    drawn = heat_map(((0.1, 0.2), (0.3, 0.4)), (frozenset({1}), frozenset({0, 1})))
    assert drawn.svg().count(f"stroke: {FRAME.lower()}") == 3
    assert [box.get_xy() for box in drawn.figure().axes[0].patches] == [
        (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5),
    ]  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(1e-9, 1e3), min_size=2, max_size=6), st.sampled_from(["log", "linear"]))
def test_more_is_darker_and_what_is_off_the_scale_has_its_end(values, scale):
    drawn = heat_map((tuple(values),), scale=scale, low=1e-3, high=1.0)
    cells = drawn.figure().axes[0].collections[0]
    cells.update_scalarmappable()
    light = [sum(colour[:3]) for colour in cells.get_facecolor()]
    for one, first in zip(values, light, strict=True):
        for other, second in zip(values, light, strict=True):
            if one <= other:
                assert first >= second
            if min(one, other) >= 1.0 or max(one, other) <= 1e-3:
                assert first == second


@pytest.mark.parametrize("layers", [1, 3, 80])
def test_names_unit_and_ends_of_the_scale_are_text(layers):
    drawn = heat_map(((0.5,) * layers,), low=0.125, high=0.875)
    root = ElementTree.fromstring(drawn.svg())
    texts = {element.text for element in root.iter(f"{SPACE}text")}
    assert {"row0", "nats", "layer", "0", "0.12", "0.5", "0.88"} <= texts
    assert root.find(f"{SPACE}title").text == "t"
    assert drawn.svg() == drawn.svg()
    assert "data:" not in drawn.svg()


def test_cells_and_choices_are_found_by_name():
    rows, cells = cells_by_name([{"a": 1.0, "b": 2.0}, {"b": 3.0, "c": 4.0}])
    assert (rows, cells) == (("a", "b", "c"), ((1.0, None), (2.0, 3.0), (None, 4.0)))
    assert rows_named(rows, [{"a"}, {"b", "unknown"}], 2) == (frozenset({0}), frozenset({1}))
    assert rows_named(rows, [], 2) == (frozenset(), frozenset())
