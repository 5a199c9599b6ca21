"""Claims about the commands that go from runs to comparisons, and from a program to a child."""

import csv
import io
import json
import re
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

import puzzle
from puzzle.cli import main
from puzzle.errors import DataError
from puzzle.report.compared_runs import distinct_names
from search_space import Layout, diff_svg, plot_diff
from tests.factories.parents import save_parent, text
from tests.puzzle.cli.test_program import SMALL, said


@pytest.fixture
def three(saved_child, tmp_path):
    """Three runs, two of which differ in their seed alone."""
    places = []
    for number, (seed, kl) in enumerate([(0, 0.5), (1, 0.7), (0, 0.9)]):
        place = tmp_path / f"run-{number}"
        shutil.copytree(saved_child, place / "child")
        record = json.loads((place / "child" / "puzzle_layout.json").read_text())
        record["measured"]["child"]["kl"] = kl
        (place / "child" / "puzzle_layout.json").write_text(json.dumps(record))
        evidence = json.loads((place / "child" / "puzzle_evidence.json").read_text())
        evidence["run"]["settings"]["seed"] = evidence["run"]["data"]["seed"] = seed
        evidence["run"]["parent"]["hash"] += "other" if number == 2 else ""
        (place / "child" / "puzzle_evidence.json").write_text(json.dumps(evidence))
        places.append(str(place))
    return places


def test_runs_are_compared_and_those_of_several_seeds_summed_up(three, tmp_path, capsys):
    comparison = puzzle.compare(three)
    assert list(comparison.records) == ["run-0", "run-1", "run-2"]
    assert comparison.seeds() == {"run-0": ("run-0", "run-1")}
    table = {row[0]: row for row in comparison.rows()}
    column = comparison.head.index("KL (nats/token)")
    assert [table[f"run-{i}"][column] for i in range(3)] == ["0.5000", "0.7000", "0.9000"]
    # The mean of 0.5 and 0.7, and sqrt(2) / 10.
    assert table["2 seeds: run-0, run-1"][column] == "0.6000 \u00b1 0.1414"
    record = puzzle.load_result(three[0])
    shown = comparison.to_dataframe().loc["run-0"]
    assert shown.parameters == pytest.approx(record.measured.ratio("parameters"))
    (one,) = [s for s in comparison.chart().series if s.label == "run-1"]
    assert one.points[0][1] == 0.7
    page = str(tmp_path / "both.html")
    answer = said(capsys, "compare", *three, "--save", page)
    assert answer["runs"]["run-2"]["kl"] == 0.9
    written = (tmp_path / "both.html").read_text()
    assert "<script" not in written
    assert written.count("<svg") == 4
    assert "src=" not in written
    assert main(["compare", *three, "--as", "csv"]) == 0
    read = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert [tuple(row) for row in read] == [comparison.head, *comparison.rows()]
    assert main(["compare", *three, "--as", "latex"]) == 0
    tabular = capsys.readouterr().out
    assert tabular.count(r"\\") == 5
    assert r"$\pm$" in tabular
    assert not re.search(r"(?<!\\)[%_<>]", tabular)
    assert main(["compare", three[0]]) == 2
    assert main(["devices", "--as", "csv"]) == 2
    with pytest.raises(DataError, match="give a list of two or more"):
        puzzle.compare(three[0])
    with pytest.raises(DataError, match=r"no puzzle_layout\.json"):
        puzzle.compare([three[0], tmp_path])


def test_names_of_runs_are_as_short_as_tells_them_apart():
    assert distinct_names(["a/run", "b/run", "other"]) == ["a/run", "b/run", "other"]
    assert distinct_names(["a/x", "b/y"]) == ["x", "y"]
    assert distinct_names(["a", "a"]) == ["a (1)", "a (2)"]


def test_a_programs_answer_becomes_a_child(saved, tmp_path, monkeypatch, capsys):
    """From a solution and from a drawn layout alike, and with the weights of a search's child."""
    (tmp_path / "text.txt").write_text("\n\n".join(text()))
    monkeypatch.chdir(tmp_path)
    source = [str(saved), "--text", "text.txt", "--out", "run", *SMALL]
    profiled = [each for each in source if each not in ("--text", "text.txt")]
    said(capsys, "profile", *profiled, "--save", "costs.json")
    said(capsys, "score", *source, "--save", "scores.json")
    program = ["solve", "scores.json", "--profile", "costs.json"]
    limit = ["--constraint", "parameters <= 0.8x"]
    answer = said(capsys, *program, *limit, "--save", "solution.json", "--csv", "solution.csv")
    assert json.loads((tmp_path / "solution.json").read_text()) == answer
    rows = list(csv.DictReader((tmp_path / "solution.csv").read_text().splitlines()))
    assert [row["block"] for row in rows] == list(answer["labels"])
    assert sum(float(row["score"]) for row in rows) == pytest.approx(answer["objective"], rel=1e-4)
    pool = said(capsys, *program, *limit, "--pool", "3")["solutions"]
    assert pool[0]["labels"] == answer["labels"]
    assert len({tuple(each["labels"]) for each in pool}) == len(pool) > 1
    sweep = said(capsys, *program, "--frontier", "parameters")["solutions"]
    by_size = sorted(sweep, key=lambda each: each["resources"]["parameters"])
    scores = [each["objective"] for each in by_size]
    assert scores == sorted(scores, reverse=True)
    assert main([*program, "--frontier", "speed"]) == 2
    assert main([*program, "--pool", "2", "--frontier", "parameters"]) == 2

    made = said(capsys, "child", "solution.json", *source)
    layout = Layout.from_dict(answer["layout"])
    assert made["path"] == "run/child-solution"
    assert Layout.from_dict(made["layout"]) == layout
    layout.save("layout.json")
    again = said(capsys, "child", "layout.json", *source, "--save", "mine")
    assert again["quality"] == made["quality"]
    one, other = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (made["path"], "mine")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    other_parent = save_parent(tmp_path / "other")
    config = json.loads((other_parent / "config.json").read_text())
    assert config["num_hidden_layers"] == layout.shape.layers
    wrong = json.loads((tmp_path / "layout.json").read_text())
    wrong["shape"]["vocab"] += 1
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    assert main(["child", "wrong.json", *source]) == 1
    assert "give the parent that the layout was made for" in capsys.readouterr().err


def test_the_difference_of_two_layouts_is_told_and_drawn(found, tmp_path, capsys):
    parent = Layout.parent(found.layout.shape)
    paths = [str(tmp_path / name) for name in ("child.json", "parent.json")]
    for layout, path in zip((found.layout, parent), paths, strict=True):
        layout.save(path)
    picture = str(tmp_path / "diff.svg")
    answer = said(capsys, "layouts", paths[0], "--diff", paths[1], "--svg", picture)
    assert answer["layers"] == {
        str(layer): [own.label, theirs.label]
        for layer, (own, theirs) in found.layout.diff(parent).items()
    }
    assert (tmp_path / "diff.svg").read_text() == diff_svg(
        found.layout, parent, names=(paths[0], paths[1]), paper="white"
    )
    figure = plot_diff(found.layout, parent)
    shaded = [p for p in figure.axes[0].patches if p.get_alpha() == 0.12]
    assert len(shaded) == len(answer["layers"]) > 0
    assert main(["layouts", "--diff", paths[0]]) == 2
