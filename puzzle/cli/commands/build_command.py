"""puzzle build: `puzzle.library.build.build_library`."""

from __future__ import annotations

import math

from puzzle.cli.flags import Given
from puzzle.cli.inputs import BLD, LIBRARY, STAGE, open_stages, table
from puzzle.cli.planned import planned
from puzzle.cli.subcommand import Answer, Subcommand


def _run(given: Given) -> Answer:
    opened = open_stages(given)
    library = opened.run.get(opened.steps.library)
    layers = []
    rows: list[tuple[str, ...]] = [("layer", "variants", "median error", "worst error")]
    for index, artifact in enumerate(library.layers):
        errors = {name: error.to_dict() for name, error in library.errors(index).items()}
        values = sorted(error.value for error in library.errors(index).values())
        worst, middle = values[-1], values[math.floor(len(values) / 2)]
        rows.append((str(index), str(len(values)), f"{middle:.3f}", f"{worst:.3f}"))
        layers.append({"directory": str(artifact.path), "errors": errors})
    note = "error: held-out squared error as a share of the output's power; 1 is as bad as nothing"
    return Answer(values={"layers": layers}, text=f"{table(rows)}\n{note}", rows=rows)


BUILD = Subcommand(
    name="build",
    help="build the block library",
    options=(*STAGE, *LIBRARY, *BLD),
    examples=(
        "puzzle build --demo",
        "puzzle build ./Llama-3.2-1B --text corpus.txt --space default --out run",
    ),
    run=_run,
    plan=lambda given: planned(given, ("library",)),
)
