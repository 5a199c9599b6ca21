"""Tables for notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence

_NUMBERS = "text-align:right;padding:2px 10px;font-variant-numeric:tabular-nums"
_NAMES = "text-align:left;padding:2px 10px;font-weight:normal"


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as an HTML table: the first cell of each is its name, the others are figures.

    Args:
        head: The name of each column.
        rows: The cells.

    Example:
        >>> html_table(("", "child"), [("KL", "0.1")]).count("<td")
        1
    """
    titles = "".join(f'<th style="{_NUMBERS}">{html.escape(cell)}</th>' for cell in head)
    lines = []
    for name, *cells in rows:
        figures = "".join(f'<td style="{_NUMBERS}">{html.escape(cell)}</td>' for cell in cells)
        lines.append(f'<tr><th style="{_NAMES}">{html.escape(name)}</th>{figures}</tr>')
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
