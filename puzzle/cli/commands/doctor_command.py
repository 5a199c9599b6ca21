"""puzzle doctor: `puzzle.doctor`."""

from __future__ import annotations

import puzzle
from puzzle.cli.flags import Given, declared_options
from puzzle.cli.signatures import declared_in_source
from puzzle.cli.subcommand import Answer, Subcommand, required

OWN = declared_options(declared_in_source("puzzle", "doctor"), positional=("run",))


def _run(given: Given) -> Answer:
    required(given, "run")
    diagnosis = puzzle.doctor(**given.arguments(OWN))
    return Answer(values=diagnosis.to_dict(), text=str(diagnosis), code=0 if diagnosis.sound else 1)


DOCTOR = Subcommand(
    name="doctor",
    help="check a run directory, and delete what killed runs left in it",
    options=OWN,
    examples=("puzzle doctor puzzle-run", "puzzle doctor puzzle-run --clean --json"),
    run=_run,
)
