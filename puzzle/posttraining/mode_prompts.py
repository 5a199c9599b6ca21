"""Prompts for a trainer that takes one set of template arguments for a whole run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from puzzle.errors import DataError
from puzzle.evaluation.answers import modes_of
from puzzle.posttraining.conversation_rows import Problem
from puzzle.text.chat import FLAGS, thinking_switch
from puzzle.text.template_rendering import apply_template

_PROBE = {"role": "user", "content": "probe"}


def mode_prompts(
    problems: Sequence[Problem], tokenizer: Any, thinking: str
) -> tuple[list[list[dict[str, Any]]], list[int], dict[str, bool]]:
    """Returns prompts in each mode that is wanted, and the template arguments of the run.

    Args:
        problems: The problems.
        tokenizer: Of the model.
        thinking: "both", "on" or "off".

    Returns:
        The prompts, with flags in their messages where the template reads them; for each, the
        number of its problem; and `chat_template_kwargs`.

    Raises:
        DataError: Both modes are wanted, and the template has no switch in messages.
    """
    modes, switch = modes_of(thinking), thinking_switch(tokenizer)
    flags = switch == "system" or (switch == "argument" and _reads_flags(tokenizer))
    if len(modes) > 1 and not flags:
        raise DataError(
            "GRPO and RLOO take one mode for a whole run, and this chat template reads no /think "
            "and /no_think in messages: give thinking='on' or 'off', or a tokenizer of "
            "puzzle.add_thinking_switch"
        )
    arguments = {}
    if switch == "argument" and len(modes) == 1:
        arguments = {"enable_thinking": modes[0] == "on"}
    marks = flags and not arguments
    prompts = [
        _flagged(problem.prompt, FLAGS[mode], switch) if marks else problem.prompt
        for problem in problems
        for mode in modes
    ]
    numbers = [number for number in range(len(problems)) for _ in modes]
    return prompts, numbers, arguments


def prompt_in_mode(
    turns: list[dict[str, Any]], tokenizer: Any, mode: str
) -> tuple[list[dict[str, Any]], dict[str, bool]]:
    """Returns a prompt, and the template arguments of its row, for a trainer that takes both.

    Args:
        turns: The prompt.
        tokenizer: Of the model, with a switch.
        mode: "on" or "off".
    """
    switch = thinking_switch(tokenizer)
    if switch == "system":
        return _flagged(turns, FLAGS[mode], switch), {}
    return turns, {"enable_thinking": mode == "on"}


def _reads_flags(tokenizer: Any) -> bool:
    """Whether a flag in the user's message does what the argument does, and is not shown."""
    return all(
        apply_template(tokenizer, _flagged([_PROBE], flag, "argument"), prompt=True)
        == apply_template(
            tokenizer, [_PROBE], prompt=True, arguments={"enable_thinking": mode == "on"}
        )
        for mode, flag in FLAGS.items()
    )


def _flagged(turns: Sequence[dict[str, Any]], flag: str, switch: str | None) -> list[Any]:
    if switch == "system":
        first = [{"role": "system", "content": flag}]
        if turns[0]["role"] == "system":
            first = [{**turns[0], "content": f"{turns[0]['content']} {flag}"}]
            turns = turns[1:]
        return [*first, *turns]
    place = max(n for n, turn in enumerate(turns) if turn["role"] == "user")
    marked = {**turns[place], "content": f"{turns[place]['content']} {flag}"}
    return [*turns[:place], marked, *turns[place + 1 :]]
