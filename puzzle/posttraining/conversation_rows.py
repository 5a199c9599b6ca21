"""rows(): conversations of several published formats in one form."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from puzzle.errors import DataError
from puzzle.storage.paths import user_path
from puzzle.text.containers import reading
from puzzle.text.given_text import FORMATS
from puzzle.text.thoughts import FIELD, named_mode, turn_in_mode
from puzzle.text.turns import Conversation

# Of the first Llama-Nemotron set, whose rows name their mode in a field as well.
_PAPER_SWITCH = ("detailed thinking on", "detailed thinking off")
_FORMATS = (
    "'prompt' and 'completion', 'messages', or 'input' and 'output', where the last turn is the "
    "assistant's"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A prompt with its answer, and the thought before it.

    Args:
        prompt: The turns before the answer.
        thought: Empty if there is none.
        answer: The answer alone.
        mode: The one mode that it is an example of, "on" or "off"; None for any that it fits.
        right: The right answer, if the row has one.
    """

    prompt: list[dict[str, Any]]
    thought: str
    answer: str
    mode: str | None = None
    right: Any = None

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that it is an example of: on only with a thought."""
        fitting = ("on", "off") if self.thought else ("off",)
        return fitting if self.mode is None else tuple(m for m in fitting if m == self.mode)

    def completion(self, mode: str) -> dict[str, Any]:
        """Returns the assistant's turn in a mode."""
        turn = {"role": "assistant", "content": self.answer}
        return {**turn, FIELD: self.thought} if mode == "on" else turn

    def to_dict(self) -> dict[str, Any]:
        """Returns the row that TRL reads, with the thought in a field of its own."""
        completion = self.completion("on" if self.thought and self.mode != "off" else "off")
        row: dict[str, Any] = {"prompt": self.prompt, "completion": [completion]}
        if self.mode is not None:
            row["chat_template_kwargs"] = {"enable_thinking": self.mode == "on"}
        return row if self.right is None else {**row, "answer": self.right}


def rows(data: Any) -> list[Exchange]:
    """Returns the exchanges of a data set, whichever of several formats its rows have.

    Read are TRL's `prompt` and `completion`, as turns or as text; `messages`, with thoughts in
    `reasoning_content` or between `<think>` and `</think>`; and NVIDIA's formats: `input`,
    `output`, `reasoning` and `system_prompt` of the Llama-Nemotron set, `messages` and `reasoning`
    of Nemotron-Post-Training v1. `reasoning` or `chat_template_kwargs` say which mode a row is for.

    Args:
        data: Rows, a `datasets` data set, or the `pathlib.Path` of a .jsonl, .json or .parquet
            file. They are all read into memory.

    Raises:
        DataError: A row has none of these formats, or no answer; it is named by its number.

    Example:
        >>> [one] = rows([{"input": "1+1=", "output": "<think>so</think>2", "reasoning": "on"}])
        >>> one.thought, one.answer, one.mode
        ('so', '2', 'on')
    """
    exchanges = []
    for number, row in enumerate(mappings_of(data)):
        try:
            exchanges.append(_exchange(row))
        except DataError as error:
            raise DataError(f"row {number} (from 0): {error}") from error
    if not exchanges:
        raise DataError("the data has no rows")
    return exchanges


def mappings_of(data: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the rows of a file, a data set or a list as mappings.

    Raises:
        DataError: It is none of these, or a row is no mapping.
    """
    file = user_path(data) if isinstance(data, os.PathLike) else None
    if file is not None:
        data = _opened(file)
    if isinstance(data, str | Mapping) or not isinstance(data, Iterable):
        raise DataError(
            f"data is a {type(data).__name__}; give rows in a list, a datasets data set, or the "
            "pathlib.Path of a .jsonl, .json or .parquet file"
        )
    for number, row in enumerate(reading(data, file)):
        if not isinstance(row, Mapping):
            raise DataError(f"row {number} (from 0) is {row!r:.60}; give mappings")
        yield row


def _opened(file: os.PathLike[str]) -> Any:
    import datasets

    path = user_path(file)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None or not path.is_file():
        raise DataError(f"{path} is no .jsonl, .json or .parquet file that is there")
    try:
        return datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True)
    except (OSError, ValueError, StopIteration) as error:
        raise DataError(f"{path} cannot be read as {kind} ({error})") from error


def turns_of(value: Any, role: str = "user") -> list[dict[str, Any]]:
    """Returns turns from a list of them, or one turn of a role from text."""
    given = [{"role": role, "content": value}] if isinstance(value, str) else value
    turns = Conversation.of(given).turns
    return [{name: cell for name, cell in turn.items() if cell is not None} for turn in turns]


def _exchange(row: Mapping[str, Any]) -> Exchange:
    turns = _turns(row)
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise DataError("it has no answer: the last turn is not the assistant's after a prompt")
    mode = named_mode(row)
    thinking, plain = (turn_in_mode(turns[-1], each) for each in ("on", "off"))
    if plain is None or not plain.get("content"):
        raise DataError("it has no answer: the last turn is empty, or its thought does not end")
    thought = thinking[FIELD] if thinking else ""
    if mode == "on" and not thought:
        raise DataError("it names the mode 'on' and has no thought")
    return Exchange(
        prompt=turns[:-1],
        thought=thought,
        answer=str(plain["content"]).strip(),
        mode=mode,
        right=row.get("answer"),
    )


def _turns(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    filled = {name for name, value in row.items() if value is not None}
    if {"prompt", "completion"} <= filled:
        return [*turns_of(row["prompt"]), *turns_of(row["completion"], "assistant")]
    if {"input", "output"} <= filled:
        turns = [*turns_of(row["input"]), *turns_of(row["output"], "assistant")]
        system = str(row.get("system_prompt") or "").strip()
        if system and system not in _PAPER_SWITCH and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": system}, *turns]
        return [turn for turn in turns if not _is_switch(turn)]
    if "messages" in filled:
        return turns_of(row["messages"])
    raise DataError(f"it has the columns {sorted(map(str, row))[:12]}; read are {_FORMATS}")


def _is_switch(turn: Mapping[str, Any]) -> bool:
    return turn["role"] == "system" and str(turn.get("content", "")).strip() in _PAPER_SWITCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A prompt with its right answer, or with whatever a scorer compares an answer with.

    Args:
        prompt: The turns up to the answer.
        answer: The right answer.
    """

    prompt: list[dict[str, Any]]
    answer: Any


def problems_of(data: Any) -> list[Problem]:
    """Returns the problems of a data set, whatever the columns are called.

    Args:
        data: As for `rows`: with `prompt`, `question`, `problem` or `messages`, as text or turns,
            and with `answer`, `solution` or `ground_truth`.

    Raises:
        DataError: A row has no prompt, or no answer; it is named by its number.

    Example:
        >>> problems_of([{"question": "1+1=", "answer": "2"}])[0].answer
        '2'
    """
    found = []
    for number, row in enumerate(mappings_of(data)):
        parts = []
        for names in (_PROMPTS, _ANSWERS):
            name = next((each for each in names if row.get(each) is not None), None)
            if name is None:
                raise DataError(
                    f"row {number} (from 0) has the columns {sorted(map(str, row))[:12]}; it needs "
                    f"one of {', '.join(names)}"
                )
            parts.append(row[name])
        found.append(Problem(prompt=turns_of(parts[0]), answer=parts[1]))
    if not found:
        raise DataError("the data has no rows")
    return found


_PROMPTS = ("prompt", "question", "problem", "messages")
_ANSWERS = ("answer", "solution", "ground_truth")
