"""An answer as JSON, and its table as CSV and as LaTeX."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\u00b1": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def json_text(values: Any) -> str:
    """Returns values as JSON that every reader accepts: null for a number that is not finite.

    Example:
        >>> json_text({"kl": [0.5, float("nan")]})
        '{"kl": [0.5, null]}'
    """
    return json.dumps(_finite(values), default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


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
