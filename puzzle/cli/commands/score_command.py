"""puzzle score: `puzzle.scoring.replace_one`, `fisher` or `hybrid`."""

from __future__ import annotations

import json

from puzzle.cli.flags import Given, Option
from puzzle.cli.inputs import BLD, LIBRARY, STAGE, open_stages, refuse_source_files, table
from puzzle.cli.planned import planned
from puzzle.cli.subcommand import Answer, Subcommand, UsageError
from puzzle.storage.paths import user_path
from puzzle.storage.publishing import publish_text

METHODS = ("hybrid", "fisher", "exact")
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


def method_of(given: Given) -> str:
    """Returns how blocks are scored.

    Raises:
        UsageError: There is no such method.
    """
    method: str = given.get("method", "hybrid")
    if method not in METHODS:
        raise UsageError(f"--method {method}: allowed: {', '.join(METHODS)}")
    return method


def _run(given: Given) -> Answer:
    method = method_of(given)
    refuse_source_files(given, "save")
    opened = open_stages(given, method=method)
    library = opened.run.get(opened.steps.library)
    scores = opened.run.get(opened.steps.scores(library.refs))
    values, file = scores.to_dict(), given.get("save")
    if file is not None:
        publish_text(user_path(file), json.dumps(values, indent=1) + "\n")
    labels = list(dict.fromkeys(label for _, label, _ in scores.items()))
    rows: list[tuple[str, ...]] = [("block", *(str(layer) for layer in range(len(scores))))]
    for label in labels:
        cells = (f"{row[label].kl:.3f}" if label in row else "" for row in scores.layers)
        rows.append((label, *cells))
    note = f"KL in nats per token with one block replaced, by layer; {scores!r}"
    return Answer(values=values, text=f"{table(rows)}\n{note}", rows=rows)


SCORE = Subcommand(
    name="score",
    help="score every block of the library by the KL it causes alone",
    options=(*STAGE, *OWN, *LIBRARY, *BLD),
    examples=(
        "puzzle score --demo --save scores.json",
        "puzzle score ./Llama-3.2-1B --text corpus.txt --method exact --json",
    ),
    run=_run,
    plan=lambda given: planned(given, ("library", "scores"), method=given.get("method", "hybrid")),
)
