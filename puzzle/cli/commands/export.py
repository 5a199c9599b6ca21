"""puzzle export: `puzzle.export`."""

from __future__ import annotations

from puzzle.cli.command import Answer, Command, required
from puzzle.cli.options import Given, options_of
from puzzle.serving.exporting import export

OWN = options_of(export, skip=("tokenizer",), positional=("child", "directory"))


def _run(given: Given) -> Answer:
    for name in ("child", "directory"):
        required(given, name)
    found = export(**given.arguments(OWN))
    values = {
        "path": str(found.path),
        "engine": found.engine,
        "format": found.format,
        "layout": found.layout.to_dict(),
        "rewritten": {str(layer): list(what) for layer, what in found.rewritten.items()},
    }
    notes = "".join(
        f"\n  layer {layer} rewritten: {'; '.join(what)}" for layer, what in found.rewritten.items()
    )
    return Answer(values=values, text=f"{found.path}: {found.format} for {found.engine}{notes}")


EXPORT = Command(
    name="export",
    help="write a child in the form that a serving engine reads",
    options=OWN,
    examples=(
        "puzzle export puzzle-run/child gguf --engine llama.cpp --quantisation q8_0",
        "puzzle export puzzle-run/child for-vllm --engine vllm",
    ),
    run=_run,
)
