"""The public names and their signatures, as text; `python -m tests.house.public_api` freezes them.

It writes `public_api.txt` beside this file, and the table of the stage packages in docs/api.md.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.house.source import PACKAGES, ROOT, doors, exported

FROZEN = Path(__file__).with_suffix(".txt")
API_PAGE = ROOT / "docs" / "api.md"
PUBLIC = ("puzzle", "search_space", "solvers")
TABLE = re.compile(r"(?<=\| package \| names \|\n\|---\|---\|\n)(\| .*\n)*")


def lines() -> list[str]:
    """Returns one line for each public name, and for each member of a public class."""
    written: dict[Any, str] = {}
    result = []
    for package in PUBLIC:
        door = importlib.import_module(package)
        for name in sorted(door.__all__):
            value, full = getattr(door, name), f"{package}.{name}"
            home = written.setdefault(id(value), full)
            # What puzzle exports of the other two is written once.
            result += [f"{full} is {home}"] if home != full else _described(full, value)
    return result


def _described(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield from _class(name, value)
    elif callable(value):
        yield f"{name}{_signature(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def _class(name: str, value: type) -> Iterator[str]:
    bases = [b.__name__ for b in value.__bases__ if b is not object and b.__name__ != "Generic"]
    # What transformers or a protocol makes of a constructor is not ours to freeze.
    whole = all(_is_ours(each) for each in value.__mro__ if each is not object)
    kinds = f", a {' and '.join(bases)}" if bases else ""
    yield f"class {name}{_signature(value) if whole else ''}{kinds}"
    members = {
        k: v for each in reversed(value.__mro__) if _is_ours(each) for k, v in vars(each).items()
    }
    for member, given in sorted(members.items()):
        function = given.fget if isinstance(given, property) else getattr(value, member)
        if member.startswith("_") or not inspect.isroutine(function) or not _is_ours(function):
            continue
        shown = f" -> {_hint(inspect.signature(function).return_annotation)}"
        yield f"  {name}.{member}" + (
            shown if isinstance(given, property) else _signature(function)
        )


def _is_ours(value: Any) -> bool:
    return value.__module__.split(".")[0] in PACKAGES


def _signature(value: Any) -> str:
    signature = inspect.signature(value)
    parameters, starred = [], False
    for parameter in signature.parameters.values():
        keyword_only = parameter.kind is parameter.KEYWORD_ONLY
        if keyword_only and not starred:
            parameters.append("*")
        starred = starred or keyword_only or parameter.kind is parameter.VAR_POSITIONAL
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        text = prefix.get(parameter.kind, "") + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_hint(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {_default(parameter.default)}"
        parameters.append(text)
    result = signature.return_annotation
    returned = "" if result is signature.empty else f" -> {_hint(result)}"
    return f"({', '.join(parameters)}){returned}"


def _hint(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _default(value: Any) -> str:
    return value.__name__ if callable(value) else repr(value)


def table() -> str:
    """Returns the rows that say what each stage package exports."""
    rows = []
    for door in sorted(doors() - set(PUBLIC)):
        names = ", ".join(f"`{name}`" for name in sorted(exported(door)))
        rows.append(f"| `{door}` | {names} |\n")
    return "".join(rows)


if __name__ == "__main__":
    FROZEN.write_text("\n".join(lines()) + "\n", encoding="utf-8")
    page = API_PAGE.read_text(encoding="utf-8")
    API_PAGE.write_text(TABLE.sub(table().replace("\\", r"\\"), page, count=1), encoding="utf-8")
