"""Claims about figures for a paper: their size, and that their text can be read."""

import pytest
from matplotlib.text import Text

from puzzle.errors import SettingError
from puzzle.plotting.chart import Chart, Series
from puzzle.plotting.page_width import LEAST_TEXT, WIDTHS, fit_width

CHART = Chart(
    title="t",
    series=(Series(label="one", points=((1, 2), (3, 4))), Series(label="two", points=((1, 3),))),
    x="throughput, times the parent's",
    y="KL",
    vertical=2.0,
    vertical_label="target",
)


@pytest.mark.parametrize("width", ["column", "page", 4.5])
def test_a_figure_is_as_wide_as_asked_for_and_its_text_stays_readable_and_inside(width):
    figure = fit_width(CHART.figure(), width)
    figure.draw_without_rendering()
    inches, height = figure.get_size_inches()
    assert inches == WIDTHS.get(width, width)
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert len(texts) > 8
    assert min(text.get_fontsize() for text in texts) >= LEAST_TEXT
    inside = figure.get_tightbbox()
    assert inside.x0 >= -0.02
    assert inside.y0 >= -0.02
    assert inside.x1 <= inches + 0.02
    assert inside.y1 <= height + 0.02


def test_without_a_width_a_figure_is_as_it_was_and_others_are_refused():
    figure = CHART.figure()
    before = tuple(figure.get_size_inches())
    assert tuple(fit_width(figure, None).get_size_inches()) == before
    for width in ("collumn", 0.0, 1000.0):
        with pytest.raises(SettingError, match="column, page, or 1 to 40 inches"):
            fit_width(figure, width)
