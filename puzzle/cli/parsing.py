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

# What options are called in other tools, by what they are called here.
ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "space": ("preset", "search-space"),
    "text": ("data", "dataset", "corpus", "calib-dataset"),
    "parent": ("model", "model-path", "pretrained", "model-name-or-path", "teacher"),
    "out": ("output", "output-dir", "work-dir", "puzzle-dir"),
    "constraint": ("constraints", "target", "limit"),
    "batch": ("batch-size", "max-concurrency"),
    "prompt-tokens": ("input-len", "input-length", "isl"),
    "generated-tokens": ("output-len", "output-length", "osl", "max-new-tokens"),
    "save": ("save-dir", "export-path"),
}
KNOWN = {word: name for name, words in ELSEWHERE.items() for word in words}


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
                name = word.partition("=")[0]
                own = f"--{KNOWN.get(name[2:].replace('_', '-'), '')}"
                if name in plain or own in plain:
                    called = name[2:] if name in plain else own[2:]
                    hints.append(f"; give the {called} without that word")
                    continue
                near = difflib.get_close_matches(name, written, n=1, cutoff=0.6)
                near = [own] if own in written else near
                if near:
                    hints.append(f"; did you mean {near[0]}?")
            what = "unknown argument" if len(rest) == 1 else "unknown arguments"
            _refuse(f"{self.prog} {command.name}", f"{what} {' '.join(rest)}{''.join(hints[:1])}")
        return parsed


def _refuse(program: str, message: str) -> NoReturn:
    sys.stderr.write(f"{program}: error: {message} ({program} --help)\n")
    raise WrongLine(message)
