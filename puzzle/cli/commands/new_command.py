"""puzzle new: five questions, and the configuration file of a search."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from puzzle.cli.checks import check_values
from puzzle.cli.commands.search_command import SEARCH
from puzzle.cli.config_file import write_config
from puzzle.cli.flags import Given, Option
from puzzle.cli.subcommand import Answer, Subcommand, UsageError
from puzzle.storage.paths import user_path

OWN = (
    Option(
        name="file",
        parameter="file",
        positional=True,
        default="search.toml",
        help="the TOML file to write (default: search.toml)",
    ),
)


def _counts(text: str) -> dict[str, Any]:
    words = text.split()
    if len(words) != 3 or not all(word.isdigit() and int(word) for word in words):
        raise UsageError("write three whole numbers, such as 8 128 128")
    names = ("batch", "prompt-tokens", "generated-tokens")
    return dict(zip(names, map(int, words), strict=True))


def _named(name: str) -> Callable[[str], dict[str, Any]]:
    return lambda text: {name: text}


def _constraints(text: str) -> dict[str, Any]:
    return {"constraint": [part.strip() for part in text.split(",") if part.strip()]}


def _text(text: str) -> dict[str, Any]:
    if not user_path(text).is_file():
        raise UsageError(f"there is no file {text}")
    return {"text": text}


QUESTIONS: tuple[tuple[str, str, Callable[[str], dict[str, Any]]], ...] = (
    ("The parent: a hub id, a directory or a GGUF file", "", _named("parent")),
    ("Text of the kind that the model will see: a file", "", _text),
    ("The hardware: cpu, cuda, roofline:h100-sxm, llama.cpp, vllm", "cpu", _named("hardware")),
    ("What you serve: batch, prompt tokens, generated tokens", "8 128 128", _counts),
    ("What the child has to be, with commas between", "throughput >= 1.25x", _constraints),
)


def _run(given: Given) -> Answer:
    file = user_path(given.get("file", "search.toml"))
    if file.exists():
        raise UsageError(f"{file} exists already; give another name, or delete it")
    values: dict[str, Any] = {}
    for question, default, read in QUESTIONS:
        values |= _answer(question, default, read, values)
    write_config(file, values)
    return Answer(
        values={**values, "file": str(file)},
        text=f"{file} written; next: puzzle search --config {file} --dry-run",
    )


def _answer(
    question: str, default: str, read: Callable[[str], dict[str, Any]], known: dict[str, Any]
) -> dict[str, Any]:
    while True:
        sys.stderr.write(f"{question}{f' [{default}]' if default else ''}: ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise UsageError("the answers ended before the questions; nothing was written")
        try:
            text = line.strip() or default
            if not text:
                raise UsageError("an answer is needed")
            answer = read(text)
            check_values(SEARCH, Given({**known, **answer}))
        except UsageError as error:
            sys.stderr.write(f"  {error}\n")
            continue
        return answer


NEW = Subcommand(
    name="new",
    help="ask five questions and write the configuration file of a search",
    options=OWN,
    examples=("puzzle new", "puzzle new llama.toml"),
    run=_run,
)
