"""Claims about what the figures show, drawn as SVG and with matplotlib."""

import dataclasses
import itertools
import math
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puzzle.errors import DataError
from puzzle.figures.heat_map import HeatMap
from puzzle.figures.shades import position, shade
from puzzle.figures.svg import FRAME, heat, ticks
from puzzle.library.error_map import error_map, median_errors
from puzzle.library.local_error import LocalError
from puzzle.report.cost_points import costs_of
from puzzle.report.curves import MOST_POINTS, averaged
from puzzle.report.evidence import Evidence
from puzzle.report.figures import frontier_svg
from puzzle.report.frontier import frontier_of
from puzzle.report.outcomes import constraint_outcomes
from puzzle.report.stability import stability
from puzzle.scoring.scores import Score, Scores
from solvers import ChoiceProblem, Limit, solve

NUMBERS = st.floats(-1e9, 1e9).map(lambda value: round(value, 6))


@given(NUMBERS, NUMBERS)
def test_ticks_are_few_even_and_reach_around_what_is_drawn(one, other):
    low, high = sorted((one, other))
    if 0 < high - low < 1e-6 * max(abs(low), abs(high)):
        return  # closer together than anything drawn
    found = ticks(low, high)
    slack = 1e-6 * max(high - low, abs(high))
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= 9
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_is_darker(one, other):
    low, high = sorted((one, other))
    assert sum(shade(low)) >= sum(shade(high))


@given(st.floats(1e-9, 1e3), st.floats(1e-9, 1e3), st.sampled_from(["log", "linear"]))
def test_shades_go_by_size_and_stay_on_the_scale(one, other, scale):
    grid = HeatMap(rows=(), cells=(), chosen=(), scale=scale, low=1e-3, high=1.0, unit="")
    low, high = sorted((one, other))
    assert 0.0 <= position(grid, low) <= position(grid, high) <= 1.0
    assert (position(grid, 1e-3), position(grid, 1.0)) == pytest.approx((0.0, 1.0))


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=900))
def test_averaging_a_curve_keeps_its_mean_and_makes_it_short(values):
    points = [(float(i), value) for i, value in enumerate(values)]
    means, size = averaged(points)
    assert len(means) <= MOST_POINTS
    counts = [min(size, len(values) - start) for start in range(0, len(values), size)]
    total = sum(n * y for n, (_, y) in zip(counts, means, strict=True))
    assert total == pytest.approx(sum(values), abs=1e-6)


def test_a_heat_map_has_a_cell_for_each_score_and_frames_the_childs_blocks(found):
    root = ElementTree.fromstring(heat(found.evidence.scores.heat_map(found.layout), title="t"))
    rects = list(root.iter("rect"))
    shown = [rect.find("title").text for rect in rects if rect.find("title") is not None]
    assert sorted(shown) == sorted(
        f"layer {layer}, {label}: {score.kl:.3g}"
        for layer, label, score in found.evidence.scores.items()
    )
    assert sum(rect.get("stroke") == FRAME for rect in rects) == len(found.layout.blocks)


def test_the_variants_of_the_child_are_framed_decoupled_or_coupled(found):
    grid = error_map(found.evidence.errors, found.layout)
    for block, rows in zip(found.layout.blocks, grid.chosen, strict=True):
        names = {grid.rows[row] for row in rows}
        assert f"attention/{block.attention.label}" in names
        (ffn,) = names - {f"attention/{block.attention.label}"}
        assert ffn.endswith(f"/{block.ffn.label}")


def test_the_median_error_of_each_stage_counts_fitted_variants_only():
    errors = [
        {
            "attention/gqa2": LocalError(before=0.0, fitted=0.0),
            "attention/none": LocalError(before=1.0, fitted=1.0),
            "attention/gqa1": LocalError(before=0.9, fitted=0.5, distilled=0.4),
            "ffn/gqa2/gated8": LocalError(before=0.7, fitted=0.3, distilled=0.2),
        }
    ]
    expected = {"initialised": 0.8, "fitted": 0.4, "distilled": 0.3}
    assert median_errors(errors) == pytest.approx(expected)


def test_what_was_measured_to_choose_is_drawn_at_its_predicted_speed(found):
    problem = found.evidence.problem
    own = tuple(row[0] for row in problem.groups)
    evidence = dataclasses.replace(found.evidence, tried={own: 0.0, found.solution.labels: 0.25})
    drawn = frontier_of(dataclasses.replace(found, evidence=evidence))
    (point,) = (p for p in drawn.points if p.kind == "tried")
    (child,) = (p for p in drawn.points if p.kind == "child")
    assert (point.share, point.kl) == (pytest.approx(child.share), 0.25)
    assert "measured, to choose" in frontier_svg(drawn)


def test_no_predicted_layout_lies_below_the_frontier(found):
    drawn = frontier_of(found)
    frontier = sorted((p.share, p.kl) for p in drawn.points if p.kind == "frontier")
    assert len(frontier) >= 2
    assert [kl for _, kl in frontier] == sorted(kl for _, kl in frontier)
    kinds = Counter(point.kind for point in drawn.points)
    assert kinds["parent"] == kinds["child"] == kinds["measured"] == 1
    for point in drawn.points:
        if point.kind in ("pool", "child", "greedy", "random"):
            slower = [kl for share, kl in frontier if share <= point.share]
            assert not slower or point.kl >= max(slower) * (1 - 2e-3)


def test_baselines_are_drawn_where_there_is_one_limit_and_lose_to_the_program(found):
    only = [limit for limit in found.evidence.problem.limits if limit.resource == "parameters"]
    problem = found.evidence.problem.with_limits(only)
    evidence = dataclasses.replace(found.evidence, problem=problem)
    drawn = frontier_of(dataclasses.replace(found, evidence=evidence))
    best = solve(problem).objective
    for kind in ("greedy", "random"):
        (point,) = (point for point in drawn.points if point.kind == kind)
        assert point.kl >= best - 1e-9


def test_without_time_the_limited_resource_is_the_axis(found):
    whole = found.evidence.problem
    problem = ChoiceProblem(
        whole.groups,
        whole.score,
        {"parameters": whole.resources["parameters"]},
        offsets={"parameters": whole.offsets["parameters"]},
        limits=tuple(limit for limit in whole.limits if limit.resource == "parameters"),
    )
    evidence = dataclasses.replace(found.evidence, problem=problem)
    drawn = frontier_of(dataclasses.replace(found, evidence=evidence))
    assert (drawn.axis, drawn.wanted) == ("parameters", pytest.approx(0.8))
    (child,) = (point for point in drawn.points if point.kind == "measured")
    own = found.measured.ratio("parameters")
    assert child.share == pytest.approx(own)


def test_constraints_say_what_was_predicted_measured_and_how_much_is_to_spare(found):
    size, speed = constraint_outcomes(found, solve_again=True)
    share = found.layout.parameters() / found.measured.parent.parameters
    assert float(size.predicted.removesuffix("x")) == pytest.approx(share, rel=0.01)
    assert size.predicted == size.measured
    assert size.met
    assert size.slack == pytest.approx(1 - share / 0.8, abs=1e-6)
    assert float(speed.measured.removesuffix("x")) == pytest.approx(
        found.measured.ratio("throughput"), rel=0.01
    )
    assert float(speed.predicted.removesuffix("x")) == pytest.approx(
        found.predicted.ratio("throughput"), rel=0.01
    )
    # 0.8 x 1.05 of the parameters may be used; what that buys is what a new program says.
    assert size.more.startswith("at 0.84x: ")
    problem = found.evidence.problem
    looser = [
        limit.moved(0.05 * limit.bound) if limit.resource == "parameters" else limit
        for limit in problem.limits
    ]
    less = found.solution.objective - solve(problem.with_limits(looser)).objective
    assert float(size.more.split()[2]) == pytest.approx(less, rel=0.01)


def test_a_missed_constraint_is_called_missed(found):
    seconds = 4 * found.measured.parent.seconds
    slow = dataclasses.replace(found.measured.child, seconds=seconds)
    result = dataclasses.replace(found, measured=dataclasses.replace(found.measured, child=slow))
    assert [row.met for row in constraint_outcomes(result)] == [True, False]


def firmness(error, **run):
    problem = ChoiceProblem(
        (("a", "b"),) * 2, [0.0, 1.0, 0.0, 2.0], {"r": [2, 1] * 2}, limits=(Limit("r", at_most=3),)
    )
    row = {"a": Score(kl=0.0)}
    scores = Scores(({**row, "b": Score(kl=1.0, error=error)}, {**row, "b": Score(kl=2.0)}))
    return stability(Evidence(problem=problem, scores=scores, run=run), solve(problem))


def test_small_errors_leave_the_choice_firm_and_large_ones_do_not():
    assert firmness(0.0) is None
    small, large = firmness(1e-3), firmness(1.0)
    assert (small.firm, small.open_layers()) == (2, [])
    assert large.firm == 0
    # The other layer is changed instead when the first one's score is drawn above the other's: one
    # standard error up, in about one draw of six.
    (first, *_), _ = rows = large.open_layers()
    assert {row[0] for row in rows} == {0, 1}
    assert 0.6 <= rows[0][2] < 1.0
    assert first == 0


def test_no_firmness_is_claimed_of_what_the_scores_did_not_choose():
    assert firmness(1.0, settings={"minimise": "memory"}) is None


def test_no_firmness_is_claimed_where_measuring_tightened_the_limits(found):
    tighter = found.evidence.problem.with_limits(
        limit.moved(-0.01 * limit.bound) for limit in found.evidence.problem.limits
    )
    assert stability(found.evidence, solve(tighter)) is None


def test_costs_are_compared_where_both_are_known(found):
    costs = costs_of(found)
    assert {(cost.name, cost.who) for cost in costs} >= {
        ("memory", "child"), ("parameters", "parent"), ("time of decode", "child"),
    }  # fmt: skip
    for cost in costs:
        assert math.isfinite(cost.ratio)
        if cost.name in ("memory", "parameters"):
            assert cost.ratio == pytest.approx(1.0)


def test_matplotlib_draws_the_same_points_cells_and_ratios(found, tmp_path):
    axes = found.plot_frontier().axes[0]
    drawn = sorted((x, y) for line in axes.lines for x, y in line.get_xydata() if line.get_marker())
    points = {(p.share, p.kl) for p in frontier_of(found).points}
    assert points <= set(drawn)
    grid = found.evidence.scores.heat_map(found.layout)
    assert found.plot_scores().axes[0].images[0].get_array().shape == (
        len(grid.rows),
        len(grid.chosen),
    )
    assert len(found.plot_errors().axes[0].patches) == sum(
        map(len, error_map(found.evidence.errors, found.layout).chosen)
    )
    lines = found.plot_costs().axes[0].lines
    ratios = sorted(x for line in lines[:2] for x in line.get_xdata())
    assert ratios == sorted(cost.ratio for cost in costs_of(found))
    found.plot_layout(tmp_path / "layout.png")
    assert (tmp_path / "layout.png").stat().st_size > 1000


def test_figures_without_matplotlib_say_what_to_install(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'puzzle-nas\[plots\]'"):
        found.plot_costs()


def test_figures_without_evidence_say_so(found):
    bare = dataclasses.replace(found, evidence=None)
    for draw in (bare.plot_frontier, bare.plot_scores, bare.plot_errors):
        with pytest.raises(DataError, match="no evidence"):
            draw()


def test_frames_hold_the_figures_of_the_objects(found):
    frame = found.to_dataframe()
    for who in ("parent", "child"):
        for how, part in (("predicted", found.predicted), ("measured", found.measured)):
            assert frame.loc[(who, how), "memory"] == getattr(part, who).memory
    scores = found.evidence.scores.to_dataframe()
    assert len(scores) == sum(map(len, found.evidence.scores))
    assert scores.kl.sum() == pytest.approx(sum(s.kl for _, _, s in found.evidence.scores.items()))
    errors = found.library.to_dataframe()
    assert set(errors.layer) == {0, 1, 2}
    assert errors.value.equals(errors.distilled.fillna(errors.fitted).astype(float))
    layout = found.layout.to_dataframe()
    assert layout.width.dropna().tolist() == [
        b.ffn.width for b in found.layout.blocks if b.ffn.width
    ]


def test_objects_show_themselves_in_a_notebook(found):
    for each in (found, found.library, found.layout, found.evidence.scores):
        assert "<svg" in each._repr_html_() or "<table" in each._repr_html_()
