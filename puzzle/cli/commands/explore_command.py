"""puzzle explore: `SearchResult.explore`."""

from __future__ import annotations

import puzzle
from puzzle.cli.commands.report_command import SEARCHED
from puzzle.cli.flags import Given, Option
from puzzle.cli.subcommand import Answer, Subcommand, required
from puzzle.storage.paths import user_path

OWN = (
    SEARCHED,
    Option(
        name="save",
        parameter="path",
        default="explore.html in the directory",
        help="the HTML file to write; a .json file gets the layouts alone",
    ),
)


def _run(given: Given) -> Answer:
    directory = user_path(required(given, "directory"))
    file = user_path(given.get("save", directory / "explore.html"))
    written = puzzle.load_result(directory).explore(file)
    return Answer(values={"path": str(written)}, text=str(written))


EXPLORE = Subcommand(
    name="explore",
    help="write one HTML page in which budgets are moved and layouts compared",
    options=OWN,
    examples=(
        "puzzle explore puzzle-run",
        "puzzle explore puzzle-run --save explore.html",
    ),
    run=_run,
)
