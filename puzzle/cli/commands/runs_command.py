"""puzzle runs: `puzzle.runs`."""

from __future__ import annotations

from datetime import datetime

import puzzle
from puzzle.cli.flags import Given, declared_options
from puzzle.cli.inputs import table
from puzzle.cli.signatures import declared_in_source
from puzzle.cli.subcommand import Answer, Subcommand
from puzzle.upkeep.run_listing import RunEntry

OWN = declared_options(declared_in_source("puzzle", "runs"), positional=("directory",))


def _run(given: Given) -> Answer:
    entries = puzzle.runs(**given.arguments(OWN))
    rows: list[tuple[str, ...]] = [("run", "status", "constraints", "result", "changed")]
    rows += [_row(entry) for entry in entries]
    text = table(rows) if entries else "no run directories here; give the directory they are in"
    return Answer(values=[entry.to_dict() for entry in entries], text=text, rows=rows)


def _row(entry: RunEntry) -> tuple[str, ...]:
    figures = {
        "throughput": "{:.2f}x",
        "kl": "KL {:.3f}",
        "parameters": "{:,.0f} parameters",
        "distilled": "distilled {:.0f} steps",
    }
    said = [form.format(entry.result[k]) for k, form in figures.items() if k in entry.result]
    changed = entry.changed and datetime.fromtimestamp(entry.changed).isoformat(" ", "minutes")
    cells = ("; ".join(entry.constraints), ", ".join(said), changed)
    return (str(entry.path), entry.status, *(cell or "-" for cell in cells))


RUNS = Subcommand(
    name="runs",
    help="list runs with their status, constraints and result",
    options=OWN,
    examples=("puzzle runs", "puzzle runs results --json"),
    run=_run,
)
