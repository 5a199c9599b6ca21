"""puzzle serve-check: `puzzle.serve_check`."""

from __future__ import annotations

import puzzle
from puzzle.cli.command import Answer, Command, required
from puzzle.cli.options import Given, options_of
from puzzle.cli.signatures import declared_in_source

OWN = options_of(declared_in_source("puzzle", "serve_check"), positional=("directory",))


def _run(given: Given) -> Answer:
    for name in ("directory", "engine"):
        required(given, name)
    check = puzzle.serve_check(**given.arguments(OWN))
    return Answer(values=check.to_dict(), text=str(check), code=0 if check.passed else 1)


SERVE_CHECK = Command(
    name="serve-check",
    help="load a child in a serving engine and compare it with torch",
    options=OWN,
    examples=(
        "puzzle serve-check puzzle-run/child --engine llama.cpp",
        "puzzle serve-check puzzle-run/child --engine vllm --python ~/vllm/bin/python",
    ),
    run=_run,
)
