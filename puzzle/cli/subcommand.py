"""Subcommand: what a subcommand is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from puzzle.cli.flags import Given, Option
from puzzle.errors import PuzzleError


class UsageError(PuzzleError, ValueError):
    """The command line or its configuration file is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The result of a subcommand.

    Args:
        values: JSON values, for --json.
        text: The same for people.
        code: Exit code.
        rows: Its table, the first row naming the columns; empty if it has none.
    """

    values: Any
    text: str
    code: int = 0
    rows: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Subcommand:
    """A subcommand.

    Args:
        name: As it is written.
        help: What it does, in one line.
        options: What it takes.
        examples: Two command lines that run.
        run: Calls the library function.
        plan: Says what `run` would take of time, memory and disk; None where that is little.
    """

    name: str
    help: str
    options: tuple[Option, ...]
    examples: tuple[str, ...]
    run: Callable[[Given], Answer]
    plan: Callable[[Given], Answer] | None = None


def required(given: Given, name: str) -> Any:
    """Returns the value of an option that has to be given.

    Raises:
        UsageError: It was not.
    """
    value = given.get(name)
    if value is None:
        raise UsageError(f"{name} is missing; give it, or set it in --config")
    return value
