"""A parser whose errors name what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from puzzle.cli.subcommand import Subcommand


class WrongLine(SystemExit):
    """The end of a program whose arguments cannot be parsed; the message has been printed.

    Args:
        message: The message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(2)
        self.message = message


class Parser(argparse.ArgumentParser):
    """An argparse parser that suggests commands and options.

    Attributes:
        commands: The subcommands by name.
    """

    commands: Mapping[str, Subcommand] = MappingProxyType({})

    def error(self, message: str) -> NoReturn:
        """Prints the message in one line, with what was probably meant, and raises WrongLine."""
        wrong = re.match(r"argument COMMAND: invalid choice: '([^']*)'", message)
        if wrong:
            near = difflib.get_close_matches(wrong[1], self.commands, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            message = f"there is no command {wrong[1]!r}{hint}"
        message = re.sub(r"^argument (\S+): ", r"\1: ", message)
        for kind, name in (("int", "a whole number"), ("float", "a number")):
            message = re.sub(rf"invalid {kind} value: (.*)$", rf"\1 is not {name}", message)
        _refuse(self.prog, message)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Returns the arguments; unknown options are refused with the nearest known ones."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            command = self.commands[parsed.command]
            plain = {f"--{each.name}" for each in command.options if each.positional}
            named = [each for each in command.options if not each.positional]
            written = [f"--{name}" for each in named for name in each.written]
            hints = []
            for word in rest:
                if word.partition("=")[0] in plain:
                    hints.append(f"; give the {word[2:].partition('=')[0]} without that word")
                    continue
                near = difflib.get_close_matches(word.partition("=")[0], written, n=1, cutoff=0.6)
                if near:
                    hints.append(f"; did you mean {near[0]}?")
            what = "unknown argument" if len(rest) == 1 else "unknown arguments"
            _refuse(f"{self.prog} {command.name}", f"{what} {' '.join(rest)}{''.join(hints[:1])}")
        return parsed


def _refuse(program: str, message: str) -> NoReturn:
    sys.stderr.write(f"{program}: error: {message} ({program} --help)\n")
    raise WrongLine(message)
