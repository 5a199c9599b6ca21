"""puzzle serve-check: `puzzle.serve_check`."""

from __future__ import annotations

import puzzle
from puzzle.cli.flags import Given, declared_options
from puzzle.cli.signatures import declared_in_source
from puzzle.cli.subcommand import Answer, Subcommand, required

OWN = declared_options(
    declared_in_source("puzzle", "serve_check"),
    positional=("directory",),
    changes={"directory": {"help": "the directory of a saved child, or what puzzle export wrote"}},
)


def _run(given: Given) -> Answer:
    for name in ("directory", "engine"):
        required(given, name)
    check = puzzle.serve_check(**given.arguments(OWN))
    return Answer(values=check.to_dict(), text=str(check), code=0 if check.passed else 1)


SERVE_CHECK = Subcommand(
    name="serve-check",
    help="load a child in a serving engine and compare it with torch",
    options=OWN,
    examples=(
        "puzzle serve-check puzzle-run/child --engine llama.cpp",
        "puzzle serve-check puzzle-run/child --engine vllm --python ~/vllm/bin/python",
    ),
    run=_run,
)
