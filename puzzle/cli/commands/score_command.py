"""puzzle score: `puzzle.scoring.replace_one`, `fisher` or `hybrid`."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from puzzle.cli.commands.build_command import library_of
from puzzle.cli.flags import Given, Option
from puzzle.cli.inputs import BLD, LIBRARY, STAGE, open_stage, table
from puzzle.cli.planned import planned
from puzzle.cli.subcommand import Answer, Subcommand, UsageError
from puzzle.storage.disk import disk_errors

if TYPE_CHECKING:
    from puzzle.scoring.scores import Scores

# Each is a function in a module of its own name, which needs torch.
METHODS = {"hybrid": "hybrid", "fisher": "fisher", "exact": "replace_one"}
OWN = (
    Option(
        name="method",
        parameter="method",
        default="hybrid",
        help="exact: the KL of each block alone; fisher: estimated for all from a few backward "
        "passes; hybrid: estimated, calibrated, and exact where large",
    ),
    Option(name="save", parameter="save", help="write the scores to this JSON file"),
)


def _run(given: Given) -> Answer:
    method = given.get("method", "hybrid")
    if method not in METHODS:
        raise UsageError(f"--method {method}: allowed: {', '.join(METHODS)}")
    stage = open_stage(given)
    library = library_of(given, stage)
    name = METHODS[method]
    estimate = getattr(importlib.import_module(f"puzzle.scoring.{name}"), name)
    scores: Scores = estimate(library, stage.space, stage.text, workspace=stage.workspace)
    values, file = scores.to_dict(), given.get("save")
    if file is not None:
        with disk_errors(Path(file), Path(file).absolute().parent):
            Path(file).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    labels = list(dict.fromkeys(label for _, label, _ in scores.items()))
    rows: list[tuple[str, ...]] = [("block", *(str(layer) for layer in range(len(scores))))]
    for label in labels:
        cells = (f"{row[label].kl:.3f}" if label in row else "" for row in scores.layers)
        rows.append((label, *cells))
    note = f"KL in nats per token with one block replaced, by layer; {scores!r}"
    return Answer(values=values, text=f"{table(rows)}\n{note}")


SCORE = Subcommand(
    name="score",
    help="score every block of the library by the KL it causes alone",
    options=(*STAGE, *OWN, *LIBRARY, *BLD),
    examples=(
        "puzzle score --demo --save scores.json",
        "puzzle score ./Llama-3.2-1B --text corpus.txt --method exact --json",
    ),
    run=_run,
    plan=lambda given: planned(given, ("library", "scores"), scores=given.get("method", "hybrid")),
)
