"""The tables of docs/results/peers.md, from the figures of `compare.py` and its companions.

    python benchmarks/peers/tables.py --out peers-run --page docs/results/peers.md

Without --page they are printed. Errors are standard errors over windows of 256 tokens; differences
are paired by window.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NAMES = {
    "shortgpt": "ShortGPT",
    "window": "window removal",
    "slicegpt": "SliceGPT",
    "2ssp": "2SSP",
    "uniform width, 8,192 tokens": "uniform width, 8,192 tokens",
    "uniform width": "uniform width",
    "puzzle, 8,192 tokens": "puzzle, 8,192 tokens",
    "puzzle": "**puzzle**",
}
MAIN, DISTILLED = "| method | kept |", "| rate | method | before |"
Rows = Mapping[str, Mapping[str, Any]]


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """Returns a mean and its standard error."""
    observed = list(values)
    error = statistics.stdev(observed) / math.sqrt(len(observed))
    return statistics.fmean(observed), error


def written(values: Iterable[float], sign: str = "") -> str:
    """Returns a mean and its standard error as text."""
    mean, error = mean_and_error(values)
    return f"{mean:{sign}.3f} ± {error:.3f}"


def main_table(rows: Rows) -> list[str]:
    """Returns the lines of the table of all methods, by method and falling share."""
    timed = any("decode" in row for row in rows.values())
    heads = ["method", "kept", "of the layers", "model", "KL", "loss", "agreement", "CPU-s"]
    heads += ["decoding"] if timed else []
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method, name in NAMES.items():
        shares = [float(key.rsplit(" ", 1)[1]) for key in rows if key.rsplit(" ", 1)[0] == method]
        for share in sorted(shares, reverse=True):
            row = rows[f"{method} {share:g}"]
            size = row["parameters"]
            cells = [name, f"{share:.0%}", f"{size['share']:.1%}", f"{size['model'] / 1e6:.1f}M"]
            cells += [written(row["kl"]), f"{row['loss']:.3f}", f"{row['agreement']:.1%}"]
            cells += [f"{row['cpu_seconds']:.0f}"]
            if timed:
                cells += ["{ratio:.2f}x ({low:.2f} to {high:.2f})".format(**row["decode"])]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def distilled_table(rows: Rows, distilled: Rows) -> list[str]:
    """Returns the lines of the table of children before and after distillation, by peak rate."""
    heads = ["rate", "method", "before", "after", "change", "to puzzle's", "loss", "agreement"]
    heads += ["CPU-s"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    methods = list(NAMES)
    ordered = sorted(
        distilled.items(), key=lambda of: (of[1]["rate"], methods.index(method_of(of[0])))
    )
    for key, row in ordered:
        method, (child, rate) = method_of(key), key.split(" at ")
        before = rows[child]["kl"]
        best = distilled.get(f"puzzle {child.rsplit(' ', 1)[1]} at {rate}", row)["kl"]
        change, gap = (
            [mine - other for mine, other in zip(row["kl"], others, strict=True)]
            for others in (before, best)
        )
        cells = [rate_text(row["rate"]), NAMES[method], written(before), written(row["kl"])]
        cells += [written(change, "+"), "" if method == "puzzle" else written(gap, "+")]
        cells += [f"{row['loss']:.3f}", f"{row['agreement']:.1%}", f"{row['cpu_seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def method_of(key: str) -> str:
    """Returns the method of a child, whose key goes on with its share and perhaps a rate.

    Example:
        >>> method_of("uniform width, 8,192 tokens 0.85 at 0.0005")
        'uniform width, 8,192 tokens'
    """
    return key.split(" at ")[0].rsplit(" ", 1)[0]


def rate_text(rate: float) -> str:
    """Returns a learning rate as it is written in the pages.

    Example:
        >>> rate_text(0.0005)
        '5e-4'
    """
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def replaced(lines: list[str], head: str, table: list[str]) -> list[str]:
    """Returns the lines of a page with another table in place of that which starts with a head."""
    starts = [number for number, line in enumerate(lines) if line.startswith(head)]
    if len(starts) != 1:
        raise SystemExit(f"the page has {len(starts)} tables that start with {head!r}; allowed: 1")
    end = start = starts[0]
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    return [*lines[:start], *table, *lines[end:]]


def main() -> None:
    """Prints the tables, or writes them into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("peers-run"))
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    rows = json.loads((args.out / "rows.json").read_text(encoding="utf-8"))
    tables = {MAIN: main_table(rows)}
    if (file := args.out / "distilled.json").exists():
        distilled = json.loads(file.read_text(encoding="utf-8"))
        tables[DISTILLED] = distilled_table(rows, distilled)
    if not args.page:
        print("\n\n".join("\n".join(table) for table in tables.values()))
        return
    lines = args.page.read_text(encoding="utf-8").splitlines()
    for head, table in tables.items():
        lines = replaced(lines, head, table)
    args.page.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
