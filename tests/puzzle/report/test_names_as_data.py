"""Names come from files and from users: wherever they are shown, they are text and nothing else."""

import dataclasses
import json
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

import puzzle
from puzzle.report.card import model_card
from puzzle.report.page import page
from puzzle.report.templates import markdown_code, markdown_text
from puzzle.scoring.scores import Score, Scores
from puzzle.storage.json_values import one_line
from tests.factories.damage import changed

MARKUP = "<img src=x onerror=alert(1)>\"'&<script>alert(2)</script>"
LINK = "[free](https://evil.example) ![x](https://evil.example/y) `a`` b` **c** |d| $e$ # f"
LINES = "first\n\n# second\n```\n<b>third</b>\r\n| fourth |"
NAMES = (MARKUP, LINK, LINES, "a\0b\x1b[31m", "$\\frac{", "&lt;b&gt; &#60;b&#62;")


class Elements(HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.text += data


def harmless(text):
    elements = Elements(text)
    assert not elements.tags & {"script", "img", "b", "iframe", "object"}
    assert not {name for name in elements.attributes if name.startswith("on")}
    return elements


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_blocks_with_any_name_are_shown_as_text(name):
    scores = Scores(({name: Score(kl=0.5, method=name), "none+none": Score(kl=1.0)},))
    assert one_line(name, most=32) in harmless(scores._repr_html_()).text


def renamed(found, name):
    """The result of a search, as if everything that may be named had this name."""
    evidence = found.evidence
    run = json.loads(json.dumps(evidence.run))
    run["parent"] = {"source": None, "name": name, "hash": name}
    run["device"] = {"name": name, name: name}
    run["versions"] = {name: name}
    run["costs"] = run["date"] = name
    run["settings"] |= {"hardware": None, "cost_model": name, "space": None}
    run["text"][name] = {"tokens": 1, "hash": name}
    evidence = dataclasses.replace(evidence, run=run)
    solution = dataclasses.replace(found.solution, solver=name)
    return dataclasses.replace(found, evidence=evidence, solution=solution)


@pytest.mark.parametrize(
    "name", [MARKUP, *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES[1:])]
)
def test_the_report_and_notebooks_show_names_as_text(found, name):
    result = renamed(found, name)
    for shown in (page(result), result._repr_html_()):
        harmless(shown)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_card_is_the_same_document_whatever_the_names(found, name):
    def structure(result):
        tokens = MarkdownIt("commonmark").enable("table").parse(model_card(result))
        inline = [child.type for token in tokens for child in token.children or ()]
        kinds = {kind for kind in inline if kind not in ("text", "softbreak", "text_special")}
        return [token.type for token in tokens], kinds

    plain, hostile = structure(renamed(found, "name")), structure(renamed(found, name))
    assert hostile == plain
    rendered = MarkdownIt("commonmark", {"html": True}).render(model_card(renamed(found, name)))
    assert "a" not in harmless(rendered).tags


@pytest.mark.parametrize("name", [MARKUP, LINK, "a_b_", "_a_", "x < y <= z", "a & b", "1 | 2 \\"])
def test_escaped_text_and_code_read_as_what_was_given(name):
    table = f"| a |\n| --- |\n| {markdown_text(name)} |\n| {markdown_code(name)} |\n"
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(table)
    lines = [line for line in Elements(rendered).text.splitlines() if line.strip()]
    assert lines == ["a", name, name]


WHOLE = {
    "puzzle_layout.json": [("solution", "choices", 0), ("solution", "labels", 0)],
    "puzzle_evidence.json": [
        *(("run", name) for name in ("parent", "data", "text", "settings", "versions", "date")),
        ("run", "settings", "space"),
        ("run", "text", "validation", "tokens"),
        ("scores", "layers", 1),
        ("scores", "layers", 0, "none+none"),
        ("errors", 1),
    ],
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_record_without_one_of_its_parts_is_refused_before_a_report_is_begun(
    name, saved_child, tmp_path
):
    values = json.loads((saved_child / name).read_text())
    for other in WHOLE:
        (tmp_path / other).write_text((saved_child / other).read_text())
    for path in WHOLE[name]:
        damaged = changed(values, path, lambda at, key: at.pop(key))
        (tmp_path / name).write_text(json.dumps(damaged))
        with pytest.raises(puzzle.errors.DataError, match=name):
            puzzle.load_result(tmp_path)


def test_a_damaged_record_is_read_or_named(saved_child, tmp_path):
    """The figures of a record are numbers, and its parts are there."""
    for name in ("puzzle_layout.json", "puzzle_evidence.json"):
        values = json.loads((saved_child / name).read_text())
        for part in values:
            if part in ("speedup", "workload", "tried", "corrections"):
                continue
            for damage in (None, 3, "x", [[1]]):
                if damage is None and part == "measured":
                    continue
                copy = tmp_path / f"{name}-{part}-{damage}"
                copy.mkdir()
                for other in ("puzzle_layout.json", "puzzle_evidence.json"):
                    (copy / other).write_text((saved_child / other).read_text())
                (copy / name).write_text(json.dumps({**values, part: damage}))
                with pytest.raises(puzzle.errors.DataError, match=name):
                    puzzle.load_result(copy)
