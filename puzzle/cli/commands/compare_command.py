"""puzzle compare: `puzzle.compare`."""

from __future__ import annotations

import puzzle
from puzzle.cli.flags import Given, Option
from puzzle.cli.subcommand import Answer, Subcommand, UsageError

OWN = (
    Option(
        name="runs",
        parameter="runs",
        positional=True,
        many=True,
        help="run directories, or directories of saved children; two or more",
    ),
    Option(
        name="save",
        parameter="report",
        aliases=("report",),
        help="write the comparison to this HTML file",
    ),
)


def _run(given: Given) -> Answer:
    runs = given.get("runs", [])
    if len(runs) < 2:
        raise UsageError(f"{len(runs)} runs were given; give two run directories or more")
    comparison = puzzle.compare(runs)
    values, note = comparison.to_dict(), ""
    if given.get("save") is not None:
        values["report"] = str(comparison.report(given.get("save")))
        note = f"\n{values['report']}"
    rows = [comparison.head, *comparison.rows()]
    return Answer(values=values, text=comparison.table() + note, rows=rows)


COMPARE = Subcommand(
    name="compare",
    help="put several runs into one table, one picture and one page",
    options=OWN,
    examples=(
        "puzzle compare run-1.25x run-1.5x --save both.html",
        "puzzle compare seed-0 seed-1 seed-2 --as csv",
    ),
    run=_run,
)
