"""puzzle evaluate: `puzzle.evaluate`."""

from __future__ import annotations

from typing import Any

import puzzle
from puzzle import evaluation, posttraining
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
        help="a name that lm-eval knows or its YAML file, mmlu-dev, or a file of questions; "
        "repeatable",
    ),
    Option(
        name="gym",
        parameter="gym",
        many=True,
        help="with --thinking, a data set of reasoning-gym: other rows than those of puzzle "
        "posttrain --gym; repeatable",
    ),
    Option(name="gym-size", parameter="gym_size", type=int, default=100, help="rows of each"),
)
# Training takes those of seed 0.
_GYM_SEED = 1
OWN = declared_options(
    declared_in_source("puzzle", "evaluate"),
    skip=("model", "parent", "data", "tasks", "tokenizer", "system_prompts"),
)


def _run(given: Given) -> Answer:
    model, file = required(given, "model"), given.get("text")
    gym = given.get("gym", [])
    if file is None and not given.get("task") and not gym:
        raise UsageError(
            "there is nothing to measure; give --text FILE, --task NAME, --gym NAME or several"
        )
    arguments: dict[str, Any] = given.arguments(OWN)
    measured = puzzle.evaluate(
        model,
        parent=given.get("parent"),
        data=None if file is None else user_path(file),
        tasks=[
            *(user_path(t) if user_path(t).is_file() else t for t in given.get("task", [])),
            *(_gym_task(name, given.get("gym-size", 100)) for name in gym),
        ],
        system_prompts=system_prompts_of(given),
        **arguments,
    )
    rows = [("", "parent", "child", "kept"), *measured.rows()]
    return Answer(values=measured.to_dict(), text=measured.table(), rows=rows)


def _gym_task(name: str, size: int) -> Any:
    rows = posttraining.gym_tasks(name, size=size, seed=_GYM_SEED)
    return evaluation.AnswerTask(
        name=name,
        questions=[row["question"] for row in rows],
        answers=[row["answer"] for row in rows],
        scorer=posttraining.gym_equal,
    )


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
