"""Options made from the signatures and docstrings of library functions and dataclasses."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from puzzle.cli.signatures import Declaration
from puzzle.storage.json_values import shown

# The types of parameters that a command line can write.
PLAIN: tuple[type, ...] = (bool, int, float, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of a subcommand.

    Args:
        name: As it is written, without dashes: "prompt-tokens".
        parameter: The parameter it stands for.
        help: One sentence or two.
        type: bool, int, float or str.
        default: Shown in the help; an option that is not given is left to the library.
        many: Whether it may be given several times.
        positional: Whether it is written without its name.
        aliases: Other names that it is written by.
        choices: What it may be, for the help; values are checked where they are used.
        group: The heading under which the help lists it.
    """

    name: str
    parameter: str
    help: str
    type: type = str
    default: Any = None
    many: bool = False
    positional: bool = False
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    group: str = ""

    @property
    def written(self) -> tuple[str, ...]:
        """All names that it is written by."""
        return (self.name, *self.aliases)

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        """Adds the option to a parser or one of its groups, which leaves out what is not given."""
        hidden = self.default in (None, False) or self.positional
        shown = "" if hidden else f" (default: {_shown(self)})"
        help_text = (self.help + shown).replace("%", "%%")
        common: dict[str, Any] = {"default": argparse.SUPPRESS, "help": help_text}
        if self.positional:
            nargs = "*" if self.many else "?"
            parser.add_argument(self.name, nargs=nargs, type=self.type, **common)
        elif self.type is bool:
            action = argparse.BooleanOptionalAction if self.default else "store_true"
            flags = [f"--{name}" for name in self.written]
            parser.add_argument(*flags, dest=self.name, action=action, **common)
        else:
            parser.add_argument(
                *(f"--{name}" for name in self.written),
                dest=self.name,
                action="append" if self.many else "store",
                type=self.type,
                metavar=self._metavar(),
                **common,
            )

    def _metavar(self) -> str:
        if self.choices:
            return f"{{{','.join(self.choices)}}}"
        return {int: "N", float: "X"}.get(self.type, "TEXT")

    def read(self, value: Any) -> Any:
        """Returns a value of a configuration file as the command line would give it.

        Raises:
            ValueError: It is of another type.
        """
        if self.many:
            return [self._one(each) for each in (value if isinstance(value, list) else [value])]
        return self._one(value)

    def _one(self, value: Any) -> Any:
        wanted = (int, float) if self.type is float else self.type
        if not isinstance(value, wanted) or (isinstance(value, bool) and self.type is not bool):
            kind = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
            raise ValueError(f"{self.name} = {shown(value)}; write {kind[self.type]}")
        try:
            return self.type(value)
        except OverflowError as error:
            raise ValueError(f"{self.name} = {shown(value)}; write a number") from error


def _shown(option: Option) -> str:
    return f"--{option.name}" if option.type is bool else str(option.default)


def grouped(heading: str, options: Iterable[Option]) -> tuple[Option, ...]:
    """Returns options that the help lists under a heading."""
    return tuple(replace(option, group=heading) for option in options)


class Given:
    """The options that were given, by file or command line; the rest is the library's default."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns the value of an option, by its written name."""
        return self.values.get(name, default)

    def arguments(self, options: Iterable[Option]) -> dict[str, Any]:
        """Returns what was given for some options, by parameter."""
        return {o.parameter: self.values[o.name] for o in options if o.name in self.values}


def declared_options(
    declaration: Declaration,
    *,
    skip: Collection[str] = (),
    many: Collection[str] = (),
    positional: Collection[str] = (),
    prefix: str = "",
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Option, ...]:
    """Returns the options that a function or dataclass takes, with its own help and defaults.

    A parameter becomes an option if it can be given as text, a number or a switch.

    Args:
        declaration: Of the function or class; its docstring has an Args section.
        skip: Parameters left out.
        many: Parameters that take several values.
        positional: Parameters written without their name.
        prefix: Before each written name.
        changes: Fields of options that differ from what the function says, by parameter: a
            name, a help text without Python, choices, aliases.
    """
    helps = argument_helps(inspect.cleandoc(declaration.docstring))
    options = []
    for name, parameter in declaration.signature.parameters.items():
        kind = _plain_type(parameter.annotation)
        if name in skip or (kind is None and name not in many and name not in positional):
            continue
        default = parameter.default
        own: dict[str, Any] = dict((changes or {}).get(name, {}))
        options.append(
            Option(
                name=prefix + own.pop("name", name.replace("_", "-")),
                parameter=name,
                help=own.pop("help", _phrase(_written(helps.get(name, ""), helps, prefix))),
                type=kind or str,
                default=default if isinstance(default, PLAIN) and name not in many else None,
                many=name in many,
                positional=name in positional,
                **own,
            )
        )
    return tuple(options)


def _written(text: str, parameters: Iterable[str], prefix: str) -> str:
    """Returns a help text that names other options as they are written on a command line."""
    for name in parameters:
        if "_" in name:
            text = re.sub(rf"\b{name}\b", f"--{prefix}{name.replace('_', '-')}", text)
    return text


def _phrase(text: str) -> str:
    """Returns the help of a docstring as the others are written: no capital, no last full stop."""
    if text[:1].isupper() and not text[1:2].isupper():
        text = text[0].lower() + text[1:]
    return text[:-1] if text.endswith(".") and ". " not in text else text


def _plain_type(annotation: str) -> type | None:
    """Returns the type that a command line gives for an annotation; None if it cannot."""
    parts = [part.strip() for part in annotation.split("|")]
    # A path is text; and no parameter is both a switch and a number.
    for kind, names in ((str, ("str", "Path", "os.PathLike[str]")), (bool, ("bool",))):
        if any(name in parts for name in names):
            return kind
    return float if "float" in parts else int if "int" in parts else None


def argument_helps(docstring: str) -> dict[str, str]:
    """Returns what the Args section of a docstring says of each parameter, on one line.

    Example:
        >>> argument_helps("Adds.\\n\\nArgs:\\n    one: First\\n        number.\\n")
        {'one': 'First number.'}
    """
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n(?=[ ]))*)", docstring, re.MULTILINE)
    if section is None:
        return {}
    entries = re.split(r"^ {4}(\w+): ", section[1], flags=re.MULTILINE)[1:]
    return {
        name: " ".join(text.split()).replace("`", "")
        for name, text in zip(entries[::2], entries[1::2], strict=True)
    }
