"""puzzle evaluate: `puzzle.evaluate`."""

from __future__ import annotations

from typing import Any

import puzzle
from puzzle.cli.flags import Given, Option, declared_options
from puzzle.cli.signatures import declared_in_source
from puzzle.cli.subcommand import Answer, Subcommand, UsageError, required
from puzzle.cli.system_prompts import SYSTEM_PROMPT, system_prompts_of
from puzzle.storage.paths import user_path

SOURCES = (
    Option(
        name="model",
        parameter="model",
        positional=True,
        help="the directory of a child, or of any other causal language model",
    ),
    Option(name="parent", parameter="parent", help="the directory of its parent"),
    Option(
        name="text",
        parameter="data",
        aliases=("data",),
        help="held-out text: a plain text file, or .jsonl, .json or .parquet",
    ),
    Option(
        name="task",
        parameter="tasks",
        many=True,
        help="a name that lm-eval knows, mmlu-dev, or a file of questions; repeatable",
    ),
)
OWN = declared_options(
    declared_in_source("puzzle", "evaluate"),
    skip=("model", "parent", "data", "tasks", "tokenizer", "system_prompts"),
)


def _run(given: Given) -> Answer:
    model, file = required(given, "model"), given.get("text")
    if file is None and not given.get("task"):
        raise UsageError("there is nothing to measure; give --text FILE, --task NAME or both")
    arguments: dict[str, Any] = given.arguments(OWN)
    evaluation = puzzle.evaluate(
        model,
        parent=given.get("parent"),
        data=None if file is None else user_path(file),
        tasks=[
            user_path(task) if user_path(task).is_file() else task for task in given.get("task", [])
        ],
        system_prompts=system_prompts_of(given),
        **arguments,
    )
    rows = [("", "parent", "child", "kept"), *evaluation.rows()]
    return Answer(values=evaluation.to_dict(), text=evaluation.table(), rows=rows)


EVALUATE = Subcommand(
    name="evaluate",
    help="evaluate a child on text and tasks, beside its parent if given",
    options=(*SOURCES, *OWN, SYSTEM_PROMPT),
    examples=(
        "puzzle evaluate puzzle-run/child --parent ./Llama-3.2-1B --text held-out.txt",
        "puzzle evaluate puzzle-run/child --task mmlu-dev --limit 100 --json",
    ),
    run=_run,
)
