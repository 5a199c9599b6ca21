"""Claims about the explorer: its points are solutions, and its sliders pick the best that fits."""

import html
import json
import re
import shutil
import subprocess

import pytest

import puzzle
from puzzle.cli import main
from puzzle.errors import DataError
from puzzle.limits.constraints import parse_constraints
from puzzle.report.solved_layouts import solved_layouts
from solvers import Limit, solve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def test_every_point_is_the_least_score_within_its_own_budgets(found):
    points = solved_layouts(found)
    assert points[0].chosen
    assert points[0].layout == found.layout
    assert len({point.layout for point in points}) == len(points) > 10
    problem = found.evidence.kl_problem().with_limits(())
    for point in points[1:]:
        labels = [block.label for block in point.layout.blocks]
        rows = zip(problem.groups, labels, strict=True)
        kl, used = problem.evaluate([row.index(label) for row, label in rows])
        limits = tuple(Limit(name, at_most=used[name]) for name in point.shares)
        best = solve(problem.with_limits(limits)).objective
        assert point.kl == pytest.approx(kl)
        assert kl <= best * (1 + 2e-3) + 1e-9


def test_a_search_with_a_points_constraints_may_choose_it(found):
    goals = found.evidence.problem
    for point in solved_layouts(found):
        for text, (name, share) in zip(
            parse_constraints(point.constraints), point.shares.items(), strict=True
        ):
            bound = 1 / text.value if name == "seconds" else text.value
            assert share <= bound <= share * 1.01, (text, share)
            assert name in goals.resources


def seen(file, budgets):
    """The selected card's text in a browser, with sliders at some steps."""
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000",
         "--dump-dom", f"file://{file}#{budgets}"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    body = done.stdout
    one = re.search(r'<div id="one">(.*?)</div>\s*<p><button', body, re.DOTALL)[1]
    hidden = re.search(r'<p id="none"[^>]*>', body)[0]
    return html.unescape(re.sub(r"<[^>]+>", " ", one)), "hidden" in hidden, body


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_sliders_pick_the_best_solved_layout_within_the_budgets(found, tmp_path):
    file = found.explore(tmp_path / "explore.html")
    points = solved_layouts(found)
    names = list(points[0].shares)
    steps = {name: sorted({point.shares[name] for point in points}) for name in names}
    text, fine, body = seen(file, "")
    assert fine
    assert points[0].constraints in text  # the search's own, until a slider moves
    assert body.count("main-svg") >= 1  # the chart is drawn
    name = names[0]
    for step in (0, len(steps[name]) // 2):
        budget = steps[name][step]
        best = min((p for p in points if p.shares[name] <= budget), key=lambda p: p.kl)
        text, fine, _ = seen(file, f"{name}={step}")
        assert fine
        assert best.constraints in text
    lowest = "&".join(f"{each}=0" for each in names)
    kept = [p for p in points if all(p.shares[n] <= steps[n][0] for n in names)]
    text, fine, body = seen(file, lowest)
    assert fine == bool(kept) == bool(text.strip())
    assert (re.search(r'<button id="keep"[^>]*disabled', body) is None) == fine


@pytest.mark.slow
def test_the_page_needs_nothing_else_and_is_written_from_the_command_line(
    found, saved_child, tmp_path, capsys
):
    pytest.importorskip("plotly")
    file = tmp_path / "mine.html"
    assert main(["explore", str(saved_child), "--save", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(file)}
    page = file.read_text(encoding="utf-8")
    outside = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page.partition("<body>")[2])
    assert outside == []
    assert puzzle.load_result(saved_child).explore(tmp_path / "again.html").is_file()


def test_a_result_without_evidence_cannot_be_explored(saved_child, tmp_path):
    copy = shutil.copytree(saved_child, tmp_path / "copy")
    (copy / "puzzle_evidence.json").unlink()
    with pytest.raises(DataError, match="holds no evidence"):
        puzzle.load_result(copy).explore(tmp_path / "explore.html")
