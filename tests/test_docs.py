"""Claims about the docs: what they quote and name exists."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from puzzle.cli.commands import COMMANDS
from puzzle.models.plugins import GROUP

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
# Of the others, some names are those of earlier versions.
CURRENT = [page for page in PAGES if page.name not in ("CHANGELOG.md", "log.md")]


def _literals() -> str:
    """Returns all text constants of the packages; what a message fills in becomes a blank."""
    found = []
    for package in ("puzzle", "search_space", "solvers"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (str(getattr(part, "value", "\0")) for part in node.values)
                    kept = (p if "ast." not in p else "\0" for p in parts)
                    found.append("".join(kept))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\0".join(found)


def test_every_message_that_the_questions_are_keyed_by_is_in_the_code():
    text, literals = (ROOT / "docs/faq.md").read_text(encoding="utf-8"), _literals()
    messages = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    assert len(messages) > 15
    for message in messages:
        for part in filter(None, (part.strip() for part in message.split("…"))):
            assert part in literals, part


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_option_that_the_docs_give_to_a_subcommand_exists():
    common = {"config", "json", "as", "dry-run", "verbose", "help", "version"}
    for page in PAGES:
        blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        text = "\n".join(blocks).replace("\\\n", " ")
        for name, rest in re.findall(r"^puzzle ([a-z-]+)(.*)$", text, re.MULTILINE):
            known = {n for option in COMMANDS[name].options for n in option.written} | common
            assert set(re.findall(r"--([a-z-]+)", rest)) <= known, (page.name, name, rest)


def test_the_commands_page_lists_every_subcommand():
    text = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `puzzle ([a-z-]+)` \|", text, re.MULTILINE) == list(COMMANDS)


def _resolve(name: str) -> object:
    """Returns what a dotted name stands for, importing as much of it as is a module."""
    parts = name.split(".")
    value: object = importlib.import_module(parts[0])
    for end, part in enumerate(parts[1:], start=2):
        if not hasattr(value, part):
            importlib.import_module(".".join(parts[:end]))
        value = getattr(value, part)
    return value


def _imported(block: str) -> set[str]:
    """Returns the names of our packages that some lines of Python import."""
    names = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("puzzle", "search_space", "solvers")}


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_name_that_a_page_imports_or_writes_with_dots_exists(page):
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"`(puzzle(?:\.[A-Za-z_]\w*)+)[`(]", text))
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        names |= _imported(block)
    for name in sorted(names - {GROUP}):  # an entry-point group, which is no module
        _resolve(name)


def test_every_file_that_the_guide_for_contributors_names_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("| to change | open |") : text.index("## House rules")]
    for cell in re.findall(r"^\| .*? \| (.*) \|$", table, re.MULTILINE)[1:]:
        folder = ROOT
        for name in re.findall(r"`([\w./-]+(?:\.py|\.html|\.md|/))`", cell):
            path = ROOT / name if "/" in name.rstrip("/") else folder / name
            assert path.exists(), name
            folder = path if name.endswith("/") else path.parent


def test_the_pictures_of_the_docs_show_the_figures_of_the_tables(tmp_path):
    script = [sys.executable, str(ROOT / "benchmarks/readme_picture.py"), "--out", str(tmp_path)]
    subprocess.run(script, check=True)
    for name in ("frontier.svg", "choosers.svg"):
        now, kept = (
            re.findall(r"<dc:description>(.+)</dc:description>", path.read_text(encoding="utf-8"))
            for path in (tmp_path / name, ROOT / "docs/pictures" / name)
        )
        assert len(now) == 1
        assert now == kept, name
