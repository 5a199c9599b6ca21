"""puzzle workload: `puzzle.evaluation.answer_workload`, written for `--workload` of a search."""

from __future__ import annotations

import json
from typing import Any

from puzzle import evaluation
from puzzle.cli.flags import Given, Option, declared_options
from puzzle.cli.inputs import refuse_source_files, shares_of, table
from puzzle.cli.signatures import declared_in_source
from puzzle.cli.subcommand import Answer, Subcommand, required
from puzzle.cli.system_prompts import SYSTEM_PROMPT, system_prompts_of
from puzzle.storage.json_files import read_json_lines
from puzzle.storage.json_values import as_text
from puzzle.storage.paths import user_path
from puzzle.storage.publishing import publish_text

SOURCES = (
    Option(
        name="parent",
        parameter="model",
        positional=True,
        help="the directory of the parent, or of a child to search again for",
    ),
    Option(
        name="questions",
        parameter="questions",
        help="what users ask: JSON lines with a question in each",
    ),
    Option(
        name="share",
        parameter="shares",
        many=True,
        help="on=NUMBER and off=NUMBER, how many of the requests are made in each mode",
    ),
    Option(name="save", parameter="save", default="workload.json", help="the file to write"),
)
OWN = declared_options(
    declared_in_source("puzzle.evaluation", "answer_workload"),
    skip=("model", "questions", "shares", "tokenizer", "system_prompts"),
)


def _run(given: Given) -> Answer:
    model, file = required(given, "parent"), required(given, "questions")
    shares = shares_of(required(given, "share"))
    refuse_source_files(given, "save")
    questions = read_json_lines(user_path(file), "JSON lines with 'question'", _question)
    measured = evaluation.answer_workload(
        model,
        questions,
        shares=shares,
        system_prompts=system_prompts_of(given),
        **given.arguments(OWN),
    )
    values = measured.to_dict()
    path = user_path(given.get("save", "workload.json"))
    publish_text(path, json.dumps(values, indent=1) + "\n")
    rows: list[tuple[str, ...]] = [("thinking", "share", "prompt tokens", "generated tokens")]
    rows += [
        (name, f"{measured.weights[name]:g}", str(each.prompt_tokens), str(each.generated_tokens))
        for name, each in measured.scenarios.items()
    ]
    return Answer(values=values, text=f"{table(rows)}\n{path}", rows=rows)


def _question(values: Any) -> str:
    return as_text(values["question"], "question")


WORKLOAD = Subcommand(
    name="workload",
    help="measure how long a parent's answers are with and without thinking, for a search",
    options=(*SOURCES, *OWN, SYSTEM_PROMPT),
    examples=(
        "puzzle workload ./Qwen3-0.6B --questions asked.jsonl --share on=0.3 --share off=0.7",
        "puzzle search ./Qwen3-0.6B --text corpus.txt --workload workload.json --constraint "
        '"seconds_per_answer <= 0.6x"',
    ),
    run=_run,
)
