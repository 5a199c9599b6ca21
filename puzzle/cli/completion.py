"""Completion in the shell, made from the options themselves."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Mapping
from typing import Any

import shtab

from puzzle.cli.subcommand import Subcommand

SHELLS = tuple(shtab.SUPPORTED_SHELLS)


class PrintCompletion(argparse.Action):
    """Prints the script that a shell completes `puzzle` with, and exits."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: Any,
        values: Any,
        option: str | None = None,
    ) -> None:
        """Prints the script for the shell that is named."""
        # The parser itself goes on reading command lines, in a process that calls `main` again.
        completed = copy.deepcopy(parser)
        prepare(completed, parser.commands)  # type: ignore[attr-defined]
        sys.stdout.write(shtab.complete(completed, values) + "\n")
        parser.exit(0)


def prepare(parser: argparse.ArgumentParser, commands: Mapping[str, Subcommand]) -> None:
    """Says in the parser what each option is completed with: its choices, or files.

    The parser that reads a command line has no choices of its own: values are checked where they
    are used, with better messages. After this, it only serves to be completed from.

    Args:
        parser: Of all subcommands; changed in place.
        commands: The subcommands by name.
    """
    (subparsers,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in commands.items():
        choices = {option.name: option.choices for option in command.options}
        for action in subparsers.choices[name]._actions:
            if not action.choices and action.nargs != 0:
                action.choices = choices.get(action.dest) or None
            if action.choices is None and action.nargs != 0 and action.type in (None, str):
                action.complete = shtab.FILE
