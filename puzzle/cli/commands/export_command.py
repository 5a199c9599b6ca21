"""puzzle export: `puzzle.export`."""

from __future__ import annotations

import puzzle
from puzzle.cli.flags import Given, declared_options
from puzzle.cli.signatures import declared_in_source
from puzzle.cli.subcommand import Answer, Subcommand, required
from search_space import ENGINES

OWN = declared_options(
    declared_in_source("puzzle", "export"),
    skip=("tokenizer",),
    positional=("child", "directory"),
    changes={"engine": {"choices": tuple(ENGINES)}},
)


def _run(given: Given) -> Answer:
    for name in ("child", "directory"):
        required(given, name)
    exported = puzzle.export(**given.arguments(OWN))
    values = {
        "path": str(exported.path),
        "engine": exported.engine,
        "format": exported.format,
        "layout": exported.layout.to_dict(),
        "rewritten": {str(layer): list(what) for layer, what in exported.rewritten.items()},
    }
    notes = "".join(
        f"\n  layer {layer} rewritten: {'; '.join(what)}"
        for layer, what in exported.rewritten.items()
    )
    return Answer(
        values=values, text=f"{exported.path}: {exported.format} for {exported.engine}{notes}"
    )


EXPORT = Subcommand(
    name="export",
    help="write a child in the form that a serving engine reads",
    options=OWN,
    examples=(
        "puzzle export puzzle-run/child gguf --engine llama.cpp --quantisation q8_0",
        "puzzle export puzzle-run/child for-vllm --engine vllm",
    ),
    run=_run,
)
