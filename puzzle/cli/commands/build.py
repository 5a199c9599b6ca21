"""puzzle build: `puzzle.library.build_library`."""

from __future__ import annotations

import math

from puzzle.cli.command import Answer, Command
from puzzle.cli.inputs import STAGE, Stage, open_stage, table
from puzzle.cli.options import Given, Option, options_of
from puzzle.cli.planned import planned
from puzzle.library import BLDConfig, Library, LibraryConfig, build_library

LIBRARY = options_of(LibraryConfig, skip=("bld", "ridges"))
BLD = (
    Option(
        name="bld",
        parameter="bld",
        type=bool,
        default=False,
        help="distil each variant by gradient steps after its closed-form fit",
    ),
    *options_of(BLDConfig, prefix="bld-"),
)


def library_of(given: Given, stage: Stage) -> Library:
    """Returns the library that options describe, built or found in the run directory."""
    given_bld = given.arguments(BLD)
    wanted = given_bld.pop("bld", False)
    config = LibraryConfig(
        **given.arguments(LIBRARY), bld=BLDConfig(**given_bld) if wanted else None
    )
    return build_library(
        stage.parent, stage.space, stage.text, workspace=stage.workspace, config=config
    )


def _run(given: Given) -> Answer:
    library = library_of(given, open_stage(given))
    layers = []
    rows: list[tuple[str, ...]] = [("layer", "variants", "median error", "worst error")]
    for index, artifact in enumerate(library.layers):
        errors = {name: error.to_dict() for name, error in library.errors(index).items()}
        values = sorted(error.value for error in library.errors(index).values())
        worst, middle = values[-1], values[math.floor(len(values) / 2)]
        rows.append((str(index), str(len(values)), f"{middle:.3f}", f"{worst:.3f}"))
        layers.append({"directory": str(artifact.path), "errors": errors})
    note = "error: held-out squared error as a share of the output's power; 1 is as bad as nothing"
    return Answer(values={"layers": layers}, text=f"{table(rows)}\n{note}")


BUILD = Command(
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
