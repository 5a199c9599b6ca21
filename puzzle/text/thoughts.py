"""Thoughts: what an assistant's turn holds before its answer, and what of it a mode keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puzzle.errors import DataError, SettingError

MODES = ("on", "off")
OPEN, CLOSE = "<think>", "</think>"
# The fields of a turn that templates read a thought from, the usual one first.
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
FIELD = THOUGHT_FIELDS[0]


def check_system_prompts(prompts: Mapping[str, str] | None) -> None:
    """Raises SettingError unless there are no system prompts, or a text for each mode.

    Args:
        prompts: The system prompt of each mode, for a model whose switch that is.

    Example:
        >>> check_system_prompts({"on": "detailed thinking on", "off": "detailed thinking off"})
    """
    if prompts is None:
        return
    texts = prompts.values() if isinstance(prompts, Mapping) else ()
    if set(prompts) != set(MODES) or not all(isinstance(t, str) and t.strip() for t in texts):
        raise SettingError(f"system_prompts={prompts!r}; give a text for each of 'on' and 'off'")


def split_thought(text: str) -> tuple[str, str | None]:
    """Returns the thought and the answer of what a model wrote, or of a turn's content.

    Args:
        text: With the thought between `<think>` and `</think>`, of which the first may stand in
            the prompt instead.

    Returns:
        The thought, empty if there is none; and the answer, None where the thought never ends.

    Example:
        >>> split_thought("<think>1+1=2</think>2"), split_thought("2"), split_thought("<think>1+")
        (('1+1=2', '2'), ('', '2'), ('1+', None))
    """
    thought, end, answer = text.rpartition(CLOSE)
    opened = text.lstrip().startswith(OPEN)
    if end:
        return thought.strip().removeprefix(OPEN).strip(), answer.strip()
    return (text.strip().removeprefix(OPEN).strip(), None) if opened else ("", text)


def turn_in_mode(turn: Mapping[str, Any], mode: str) -> dict[str, Any] | None:
    """Returns an assistant's turn with its thought in `reasoning_content`, or without one.

    Args:
        turn: The turn, with the thought in its content or in one of the `THOUGHT_FIELDS`.
        mode: "on" keeps the thought, "off" drops it.

    Returns:
        The turn; None if it has nothing of what the mode needs: a thought that ends, or an answer.
    """
    thought, answer = split_thought(turn.get("content", ""))
    given = [turn[name].strip() for name in THOUGHT_FIELDS if isinstance(turn.get(name), str)]
    thought = next(filter(None, given), thought)
    kept = {name: value for name, value in turn.items() if name not in THOUGHT_FIELDS}
    if answer is None or not (answer or turn.get("tool_calls")):
        return None
    if "content" in turn:
        kept["content"] = answer
    if mode == "off":
        return kept
    return {**kept, FIELD: thought} if thought else None


def named_mode(row: Mapping[str, Any]) -> str | None:
    """Returns the mode that a row names for itself, None if it names none.

    Args:
        row: With `reasoning` as "on" or "off", or with `enable_thinking` among its
            `chat_template_kwargs`.

    Raises:
        DataError: It names both.
    """
    arguments = row.get("chat_template_kwargs")
    flag = arguments.get("enable_thinking") if isinstance(arguments, Mapping) else None
    by_flag = {True: "on", False: "off"}[flag] if isinstance(flag, bool) else None
    named = row.get("reasoning")
    by_name = named if isinstance(named, str) and named in MODES else None
    if by_flag and by_name and by_flag != by_name:
        raise DataError(
            f"its 'reasoning' is {by_name!r} and its chat_template_kwargs say {by_flag!r}; keep one"
        )
    return by_name or by_flag
