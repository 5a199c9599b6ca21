"""Claims about the public names: they are frozen, documented, and complete."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from pathlib import Path

import pytest

import puzzle
from tests.house.public_api import API_PAGE, FROZEN, PUBLIC, TABLE, lines, table
from tests.house.source import exported

UPDATE = (
    "run `python -m tests.house.public_api`, and say in CHANGELOG.md what changed and what to "
    "write instead"
)


def test_public_names_and_signatures_are_frozen():
    frozen, now = FROZEN.read_text(encoding="utf-8").splitlines(), lines()
    changed = "\n".join(
        line for line in difflib.ndiff(frozen, now) if line.startswith(("- ", "+ "))
    )
    assert frozen == now, f"the public API changed; if it is meant to, {UPDATE}:\n{changed}"


def test_the_list_of_names_is_the_stub():
    listed = exported("puzzle")
    assert puzzle.__all__ == dir(puzzle) == sorted(listed)
    for name, module in listed.items():
        assert getattr(puzzle, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="module 'puzzle' has no attribute 'serch'"):
        _ = puzzle.serch


def test_the_page_on_the_api_has_every_public_name_and_no_other():
    page = API_PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"^::: puzzle\.(\w+)$", page, re.MULTILINE)) - {"errors"}
    elsewhere = {name for name, module in exported("puzzle").items() if module in PUBLIC}
    assert named == set(puzzle.__all__) - elsewhere
    for name in elsewhere:
        assert f"\n::: {exported('puzzle')[name]}.{name}\n" in page, name


def test_the_page_on_the_api_lists_what_the_stage_packages_export():
    found = TABLE.search(API_PAGE.read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == table(), f"the stage packages changed; {UPDATE}"


def test_what_a_public_function_takes_by_type_is_public_too():
    """Only `str`, paths and the like need no name; a settings class has to be importable."""
    classes = {
        name
        for folder in ("puzzle", "search_space")
        for file in (Path(__file__).parents[2] / folder).rglob("*.py")
        for name in re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    for name in puzzle.__all__:
        if inspect.isfunction(function := getattr(puzzle, name)):
            for parameter in inspect.signature(function).parameters.values():
                taken = set(re.findall(r"\w+", str(parameter.annotation))) & classes
                assert taken <= set(puzzle.__all__), f"{name}({parameter.name})"
