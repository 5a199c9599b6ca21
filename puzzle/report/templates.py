"""Jinja templates beside this file."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


@cache
def _environment(html: bool) -> Environment:
    return Environment(
        loader=PackageLoader("puzzle", "report"),
        autoescape=html,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )


def template(name: str, *, html: bool) -> Template:
    """Returns a template by its file name.

    Args:
        name: The file.
        html: Whether what is filled in is escaped for HTML.
    """
    return _environment(html).get_template(name)
