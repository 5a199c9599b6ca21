"""Claims about the report page: all in one file, honest about what it has, fit for a phone."""

import dataclasses
import html
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

import puzzle
from puzzle.cli import main
from puzzle.errors import DataError
from puzzle.report.page import page
from puzzle.report.training import read_record

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


class Elements(HTMLParser):
    """Tags with their attributes, and the text of headings."""

    def __init__(self, text):
        super().__init__()
        self.found, self.ids, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def sections(text):
    return re.findall(r'<section id="(\w+)"', text)


def test_the_page_asks_nothing_of_other_files_or_the_network(written):
    elements = Elements(written.read_text())
    assert not elements.open, "every element is closed"
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "img", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in elements.found:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert "@import" not in written.read_text()
    assert not re.search(r"url\((?!#)", written.read_text())


def test_pictures_are_well_formed_and_no_id_is_there_twice(written):
    text = written.read_text()
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) >= 8
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert "nan" not in picture
    ids = Elements(text).ids
    assert len(ids) == len(set(ids))


def test_every_section_is_there_and_those_without_data_are_not(found, written, page_alone):
    always = ["layout", "comparison"]
    assert sections(written.read_text()) == [
        *always, "constraints", "frontier", "costs", "scores", "distillation", "sensitivity",
        "use", "reproduce",
    ]  # fmt: skip
    assert "distillation" not in sections(page_alone)
    bare = dataclasses.replace(found, evidence=None)
    assert sections(page(bare)) == [*always, "costs", "use"]
    no_errors = dataclasses.replace(found.evidence, errors=(), run={})
    text = page(dataclasses.replace(found, evidence=no_errors))
    assert "Local errors</h3>" not in text
    assert "reproduce" not in sections(text)


def test_the_verdict_says_what_was_measured(found, written):
    verdict = re.search(r'<p class="verdict">(.*?)</p>', written.read_text())[1]
    child = found.measured.child
    assert f"{found.measured.ratio('throughput'):.2f} times" in verdict
    agreement, error = 100 * child.agreement, 100 * child.agreement_error
    assert f"{agreement:.1f} \u00b1 {error:.1f} %" in verdict
    assert f"KL {child.kl:.3f} \u00b1 {child.kl_error:.3f} nats" in verdict


def test_a_reloaded_result_gives_the_same_page(page_alone, saved_child):
    again = puzzle.load_result(saved_child)
    # Where the child is, is the only thing that a result in memory does not know.
    places = re.compile(r'<section id="use">.*?</section>', re.DOTALL)
    assert places.sub("", page(again)) == places.sub("", page_alone)


def test_names_cannot_smuggle_elements_into_the_page(found):
    name = "<script>alert(1)</script>"
    parent = {"source": name, "name": name, "hash": name}
    evidence = dataclasses.replace(found.evidence, run={**found.evidence.run, "parent": parent})
    text = page(dataclasses.replace(found, evidence=evidence))
    assert "<script" not in text
    assert html.escape(name) in text


def test_the_record_of_a_distillation_is_found_beside_a_saved_child_and_where_it_was_written(
    found, saved_child, tmp_path, distillation
):
    with pytest.raises(DataError, match=r"has no distillation\.json, nor has a child in it"):
        found.report(tmp_path / "report.html", distillation=tmp_path)
    shutil.copytree(saved_child, tmp_path / "child")
    (tmp_path / "child" / "distillation.json").write_text(json.dumps(distillation))
    # As `puzzle distill --out` is given it, and the child in there.
    for given in (None, tmp_path, tmp_path / "child", distillation):
        assert read_record(given, tmp_path / "child") == distillation
    path = puzzle.load_result(tmp_path / "child").report(tmp_path / "report.html")
    assert "distillation" in sections(path.read_text())


def test_the_command_writes_the_page_of_a_saved_run(found, saved_child, tmp_path, capsys):
    shutil.copytree(saved_child, tmp_path / "run" / "child")
    assert main(["report", str(tmp_path / "run"), "--json"]) == 0
    path = tmp_path / "run" / "report.html"
    assert json.loads(capsys.readouterr().out) == {"path": str(path)}
    assert "frontier" in sections(path.read_text())
    assert main(["report", str(tmp_path)]) == 1
    assert "puzzle_layout.json" in capsys.readouterr().err


def rendered(text, width, folder):
    """Returns (widest the page gets, messages of the console) in a window of a width."""
    measure = (
        "const d = document.querySelector('iframe').contentDocument.documentElement;"
        "document.title = d.scrollWidth + ' ' + d.clientWidth;"
    )
    frame = (
        f'<iframe srcdoc="{html.escape(text)}" width="{width}" height="700" '
        f'style="border:0" onload="{measure}"></iframe>'
    )
    outer = folder / f"outer{width}.html"
    outer.write_text(f"<!doctype html><title></title>{frame}", encoding="utf-8")
    run = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--hide-scrollbars", "--enable-logging=stderr", "--dump-dom",
            f"--user-data-dir={folder / 'profile'}", outer.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    title = re.search(r"<title>(\d+) (\d+)</title>", run.stdout)
    return int(title[1]), int(title[2]), re.findall(r".*CONSOLE.*", run.stderr)


chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@chromium
@pytest.mark.parametrize("width", [360, 1024])
def test_in_chromium_nothing_is_wider_than_the_window_and_the_console_is_silent(
    written, width, tmp_path
):
    widest, window, console = rendered(written.read_text(), width, tmp_path)
    assert window == width
    assert widest <= width
    assert console == []


@chromium
def test_what_is_too_wide_or_complains_is_noticed(tmp_path):
    bad = '<div style="width: 500px">wide</div><script>console.error("complaint")</script>'
    widest, window, console = rendered(f"<!doctype html>{bad}", 360, tmp_path)
    assert (widest, window) == (508, 360)
    assert "complaint" in console[0]
