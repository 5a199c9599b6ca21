"""Jinja templates beside this file."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from puzzle.storage.json_values import one_line


@cache
def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("puzzle", "report"),
        autoescape=html,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters.update(md=markdown_text, code=markdown_code)
    return environment


def markdown_text(value: object) -> str:
    """Returns text that Markdown shows as it is, on one line and within one cell of a table.

    Example:
        >>> print(markdown_text("a|b <img src=x> [c](d) *e*"))
        a\\|b &lt;img src=x> \\[c\\](d) \\*e\\*
    """
    line = one_line(value)
    line = re.sub(r"([\\`*\[\]|~$])", r"\\\1", line)
    line = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", line)
    line = re.sub(r"&(?=#?\w+;)", "&amp;", line)
    # A sign of comparison before a space or "=" opens no tag.
    return re.sub(r"<(?![ =])", "&lt;", line)


def markdown_code(value: object) -> str:
    """Returns text as code within a line, whatever backticks it holds.

    Example:
        >>> print(markdown_code("a`b"))
        `` a`b ``
    """
    line = one_line(value).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}" if longest else f"`{line}`"


def template(name: str, *, html: bool) -> Template:
    """Returns a template by its file name.

    Args:
        name: The file.
        html: Whether what is filled in is escaped for HTML.
    """
    return _environment(html).get_template(name)
