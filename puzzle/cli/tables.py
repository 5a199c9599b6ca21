"""The table of an answer as CSV and as LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\u00b1": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def csv_text(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows, the first of which names the columns, as comma-separated values."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue().rstrip("\n")


def latex_text(rows: Sequence[Sequence[str]]) -> str:
    r"""Returns rows, the first of which names the columns, as a tabular of the package booktabs.

    Example:
        >>> print(latex_text([("run", "KL"), ("a_b", "0.1")]))
        \begin{tabular}{lr}
        \toprule
        run & KL \\
        \midrule
        a\_b & 0.1 \\
        \bottomrule
        \end{tabular}
    """
    lines = [" & ".join(map(_escaped, row)) + r" \\" for row in rows]
    columns = "l" + "r" * (len(rows[0]) - 1)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _escaped(cell: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in cell)
