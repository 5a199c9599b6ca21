"""Preferences and judged answers as the rows that TRL's DPO and KTO read, in both modes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from puzzle.errors import DataError
from puzzle.posttraining.conversation_rows import mappings_of, turns_of
from puzzle.posttraining.mode_prompts import prompt_in_mode
from puzzle.text.chat import thinking_switch
from puzzle.text.thoughts import named_mode, turn_in_mode

Row = dict[str, Any]


def preference_rows(
    data: Any, tokenizer: Any, system_prompts: Mapping[str, str] | None = None
) -> tuple[list[Row], dict[str, int]]:
    """Returns rows with `prompt`, `chosen` and `rejected`, and what was counted.

    A row that names no mode is a preference between the two answers without their thoughts, and,
    if both have one, between the two with them.

    Args:
        data: Rows with these columns, as text or turns; or with `chosen` and `rejected` as whole
            conversations that differ in their last turn.
        tokenizer: Of the model.
        system_prompts: The system prompt of each mode, for a model whose switch that is.

    Raises:
        DataError: A row has none of these forms; it is named by its number.
    """
    return _rows(data, tokenizer, system_prompts, _preference)


def judged_rows(
    data: Any, tokenizer: Any, system_prompts: Mapping[str, str] | None = None
) -> tuple[list[Row], dict[str, int]]:
    """Returns rows with `prompt`, `completion` and `label`, for KTO; as `preference_rows`."""
    return _rows(data, tokenizer, system_prompts, _judged)


def _rows(
    data: Any, tokenizer: Any, prompts: Mapping[str, str] | None, parse: Callable[[Any], Any]
) -> tuple[list[Row], Any]:
    switch = bool(prompts) or thinking_switch(tokenizer) is not None
    made, counts = [], Counter[str]()
    for number, row in enumerate(mappings_of(data)):
        try:
            prompt, answers, rest = parse(row)
            mode = named_mode(row)
        except DataError as error:
            raise DataError(f"row {number} (from 0): {error}") from error
        for each in (mode,) if mode or not switch else ("on", "off"):
            turns = {name: _in_mode(turn, each) for name, turn in answers.items()}
            if None in turns.values():
                counts["rows that are no example of a mode"] += 1
                continue
            if len(turns) > 1 and len({str(turn) for turn in turns.values()}) == 1:
                counts["rows whose answers are the same without thoughts"] += 1
                continue
            own: Row = {"prompt": prompt}
            if each and switch:
                own["prompt"], arguments = prompt_in_mode(prompt, tokenizer, each, prompts)
                own |= {"chat_template_kwargs": arguments} if arguments else {}
            made.append({**own, **{name: [turn] for name, turn in turns.items()}, **rest})
            counts[f"rows, thinking {each}" if each else "rows"] += 1
    if not made:
        raise DataError(f"no row is left to train on ({dict(counts)})")
    return made, dict(counts)


def _in_mode(turn: Row, mode: str | None) -> Row | None:
    return turn if mode is None else turn_in_mode(turn, mode)


def _preference(row: Mapping[str, Any]) -> tuple[list[Row], dict[str, Row], Row]:
    if row.get("chosen") is None or row.get("rejected") is None:
        raise DataError(
            f"it has the columns {sorted(map(str, row))[:12]}; give 'prompt', 'chosen' "
            "and 'rejected'"
        )
    chosen, rejected = (turns_of(row[name], "assistant") for name in ("chosen", "rejected"))
    if row.get("prompt") is not None:
        prompt = turns_of(row["prompt"])
    else:
        prompt = chosen[:-1]
        if not prompt or prompt != rejected[:-1]:
            raise DataError("it has no 'prompt', and the two conversations differ before the end")
    return prompt, {"chosen": _last(chosen), "rejected": _last(rejected)}, {}


def _judged(row: Mapping[str, Any]) -> tuple[list[Row], dict[str, Row], Row]:
    if row.get("prompt") is None or row.get("completion") is None:
        raise DataError(
            f"it has the columns {sorted(map(str, row))[:12]}; give 'prompt', "
            "'completion' and 'label'"
        )
    if not isinstance(row.get("label"), bool):
        raise DataError(f"its 'label' is {row.get('label')!r:.40}; give true or false")
    turns = turns_of(row["completion"], "assistant")
    return turns_of(row["prompt"]), {"completion": _last(turns)}, {"label": row["label"]}


def _last(turns: list[Row]) -> Row:
    if turns[-1]["role"] != "assistant":
        raise DataError("the last turn of an answer is not the assistant's")
    return turns[-1]
