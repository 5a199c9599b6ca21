"""Claims about the docs: what they quote and name exists."""

import ast
import re
from pathlib import Path

import pytest

from puzzle.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_option_that_the_docs_give_to_a_subcommand_exists():
    common = {"config", "json", "dry-run", "verbose", "help", "version"}
    for page in PAGES:
        blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        text = "\n".join(blocks).replace("\\\n", " ")
        for name, rest in re.findall(r"^puzzle ([a-z-]+)(.*)$", text, re.MULTILINE):
            known = {option.name for option in COMMANDS[name].options} | common
            assert set(re.findall(r"--([a-z-]+)", rest)) <= known, (page.name, name, rest)


def test_the_commands_page_lists_every_subcommand():
    text = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `puzzle ([a-z-]+)` \|", text, re.MULTILINE) == list(COMMANDS)
