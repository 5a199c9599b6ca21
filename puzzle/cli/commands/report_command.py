"""puzzle report: `SearchResult.report`."""

from __future__ import annotations

import puzzle
from puzzle.cli.flags import Given, Option
from puzzle.cli.subcommand import Answer, Subcommand, required
from puzzle.storage.paths import user_path

SEARCHED = Option(
    name="directory",
    parameter="directory",
    positional=True,
    help="the run directory of a search, or the directory of a saved child",
)
OWN = (
    SEARCHED,
    Option(
        name="save",
        parameter="path",
        aliases=("out",),
        default="report.html in the directory",
        help="the HTML file to write",
    ),
    Option(
        name="distillation",
        parameter="distillation",
        help="the directory that the child was distilled into",
    ),
    Option(
        name="samples",
        parameter="samples",
        type=bool,
        default=False,
        help="let parent and child write after three prompts",
    ),
    Option(
        name="prompt",
        parameter="prompt",
        many=True,
        help="such a prompt of your own; repeatable",
    ),
)


def _run(given: Given) -> Answer:
    directory = user_path(required(given, "directory"))
    file = user_path(given.get("save", directory / "report.html"))
    written = puzzle.load_result(directory).report(
        file,
        distillation=given.get("distillation"),
        samples=given.get("prompt") or given.get("samples", False),
    )
    return Answer(values={"path": str(written)}, text=str(written))


REPORT = Subcommand(
    name="report",
    help="write the report of a search as one HTML page",
    options=OWN,
    examples=(
        "puzzle report puzzle-run",
        "puzzle report puzzle-run --samples --save report.html --distillation distilled",
    ),
    run=_run,
)
