"""Prompts for a trainer that takes one set of template arguments for a whole run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puzzle.errors import DataError
from puzzle.evaluation.answers import modes_of
from puzzle.posttraining.conversation_rows import Problem
from puzzle.text.chat import FLAGS, thinking_switch, with_system_prompt
from puzzle.text.template_rendering import apply_template
from puzzle.text.thoughts import check_system_prompts

_PROBE = {"role": "user", "content": "probe"}


def mode_prompts(
    problems: Sequence[Problem],
    tokenizer: Any,
    thinking: str,
    system_prompts: Mapping[str, str] | None = None,
) -> tuple[list[list[dict[str, Any]]], list[int], dict[str, bool]]:
    """Returns prompts in each mode that is wanted, and the template arguments of the run.

    Args:
        problems: The problems.
        tokenizer: Of the model.
        thinking: "both", "on" or "off".
        system_prompts: The system prompt of each mode, for a model whose switch that is.

    Returns:
        The prompts, with flags in their messages where the template reads them; for each, the
        number of its problem; and `chat_template_kwargs`.

    Raises:
        DataError: Both modes are wanted, and the template has no switch in messages.
    """
    modes = modes_of(thinking)
    check_system_prompts(system_prompts)
    numbers = [number for number in range(len(problems)) for _ in modes]
    if system_prompts:
        given = [
            with_system_prompt(problem.prompt, mode, system_prompts)
            for problem in problems
            for mode in modes
        ]
        return given, numbers, {}
    switch = thinking_switch(tokenizer)
    flags = switch == "system" or (switch == "argument" and _reads_flags(tokenizer))
    if len(modes) > 1 and not flags:
        raise DataError(
            "GRPO and RLOO take one mode for a whole run, and this chat template reads no /think "
            "and /no_think in messages: give thinking='on' or 'off', a tokenizer of "
            "puzzle.add_thinking_switch, or the system prompt of each mode"
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
    return prompts, numbers, arguments


def prompt_in_mode(
    turns: list[dict[str, Any]],
    tokenizer: Any,
    mode: str,
    system_prompts: Mapping[str, str] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, bool]]:
    """Returns a prompt, and the template arguments of its row, for a trainer that takes both.

    Args:
        turns: The prompt.
        tokenizer: Of the model, with a switch.
        mode: "on" or "off".
        system_prompts: The system prompt of each mode, for a model whose switch that is.
    """
    if system_prompts:
        return with_system_prompt(turns, mode, system_prompts), {}
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
