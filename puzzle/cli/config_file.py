"""Options from a TOML file: they yield to the command line, and replace the defaults."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from puzzle.cli.flags import Option
from puzzle.cli.subcommand import Subcommand, UsageError
from puzzle.storage.paths import user_path
from puzzle.storage.publishing import publish_text

MOST_BYTES = 2**20


def read_config(
    path: str | Path, command: Subcommand, commands: Mapping[str, Subcommand]
) -> dict[str, Any]:
    """Returns the options that a file gives to a subcommand, by written name.

    Keys at the top are for every subcommand that has such an option; a table named after a
    subcommand is for it alone and comes first.

    Args:
        path: A TOML file.
        command: The subcommand.
        commands: All of them, by name.

    Raises:
        UsageError: The file cannot be read, a key is unknown to all subcommands, or a value has
            the wrong type.
    """
    try:
        file = user_path(path)
        if file.exists() and file.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path} has more than {MOST_BYTES} bytes: is it the right file?")
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise UsageError(f"{path} is not valid TOML: it is nested too deeply") from error
    except ValueError as error:  # bad UTF-8, bad TOML, and integers of thousands of digits
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    top = {key: value for key, value in values.items() if key not in tables}
    canonical = {option.name for each in commands.values() for option in each.options}
    # What is an option of its own somewhere is no other name for another here.
    everywhere = canonical | {n for each in commands.values() for n in _names(each, canonical)}
    for name, table in tables.items():
        if name not in commands:
            raise _unknown(path, f"table [{name}]", name, commands)
        own = _names(commands[name], canonical)
        for key in table:
            if _written(key) not in own:
                raise _unknown(path, f"key {key!r} in [{name}]", key, own)
    for key in top:
        if _written(key) not in everywhere:
            raise _unknown(path, f"key {key!r}", key, everywhere)
    merged = {_written(k): v for k, v in {**top, **tables.get(command.name, {})}.items()}
    options = {}
    for option in command.options:
        name = next((n for n in option.written if n in merged and _own(n, option, canonical)), "")
        if name:
            try:
                options[option.name] = option.read(merged[name])
            except ValueError as error:
                raise UsageError(f"{path}: {error}") from error
    return options


def _own(name: str, option: Option, canonical: Collection[str]) -> bool:
    return name == option.name or name not in canonical


def _names(command: Subcommand, canonical: Collection[str]) -> set[str]:
    return {n for o in command.options for n in o.written if _own(n, o, canonical)}


def _written(key: str) -> str:
    return key.replace("_", "-")


def _unknown(path: str | Path, what: str, key: str, known: Collection[str]) -> UsageError:
    near = difflib.get_close_matches(_written(key), known, n=1)
    if near:
        return UsageError(f"{path}: {what} is unknown; did you mean {near[0]!r}?")
    return UsageError(f"{path}: {what} is unknown; there are {', '.join(sorted(known))}")


def write_config(path: Path, values: Mapping[str, Any]) -> None:
    """Writes options so that `read_config` gives them back: the call, kept beside its result."""
    # Strings, numbers, switches and lists of them look the same in JSON and in TOML.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    publish_text(path, "".join(f"{line}\n" for line in sorted(lines)))
