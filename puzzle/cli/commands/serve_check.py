"""puzzle serve-check: `puzzle.serve_check`."""

from __future__ import annotations

from puzzle.cli.command import Answer, Command, required
from puzzle.cli.options import Given, options_of
from puzzle.serving.check import serve_check

OWN = options_of(serve_check, positional=("directory",))


def _run(given: Given) -> Answer:
    for name in ("directory", "engine"):
        required(given, name)
    found = serve_check(**given.arguments(OWN))
    return Answer(values=found.to_dict(), text=str(found), code=0 if found.passed else 1)


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
