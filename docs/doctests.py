"""Lets mkdocstrings show the Example sections of docstrings as code."""

import re

from griffe import Extension, Object


class Doctests(Extension):
    """Reads "Example:" as griffe's own section "Examples:", which knows doctests."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Renames the section of one object."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
