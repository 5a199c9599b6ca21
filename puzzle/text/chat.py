"""Conversations as text: rendered by the tokenizer's chat template, in each thinking mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puzzle.errors import DataError

Messages = Sequence[Mapping[str, Any]]
MODES = ("on", "off")
FLAGS = {"on": "/think", "off": "/no_think"}
_PROBE = [{"role": "user", "content": "probe"}]


def thinking_switch(tokenizer: Any) -> str | None:
    """Returns how the chat template turns reasoning on and off.

    The template is tried rather than looked up by name: it has a switch if what it renders
    depends on one.

    Args:
        tokenizer: A Hugging Face tokenizer.

    Returns:
        "argument" if it reads `enable_thinking`, "system" if it reads `/think` and `/no_think` in
        the system message, None if neither changes anything or there is no template.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    on, off = (_apply(tokenizer, _PROBE, True, {"enable_thinking": mode}) for mode in (True, False))
    if on != off:
        return "argument"
    if not _takes_system(tokenizer):
        return None
    texts = []
    for flag in FLAGS.values():
        text = _apply(tokenizer, [{"role": "system", "content": flag}, *_PROBE], True, {})
        texts.append(text.replace(flag, ""))
    # A template without a switch repeats the flag like any other text.
    return None if texts[0] == texts[1] else "system"


def render_chat(messages: Messages, tokenizer: Any, *, thinking: str | None = None) -> str:
    """Returns a conversation as the parent was trained to read it.

    Args:
        messages: Turns with `role` and `content`.
        tokenizer: A Hugging Face tokenizer; without a chat template, turns are joined as
            `role: content`.
        thinking: "on" or "off" for a template with a switch, None for the template's default.

    Raises:
        DataError: A turn lacks its role or content, or the template rejects the conversation.

    Example:
        >>> render_chat([{"role": "user", "content": "Hello"}], None)
        'user: Hello'
    """
    if thinking is not None and thinking not in MODES:
        raise DataError(f"thinking={thinking!r}; allowed: 'on', 'off', None")
    turns = [_turn(turn) for turn in messages]
    if not getattr(tokenizer, "chat_template", None):
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
    switch = thinking_switch(tokenizer) if thinking else None
    arguments: dict[str, Any] = {}
    if switch == "argument":
        arguments["enable_thinking"] = thinking == "on"
    elif switch == "system":
        turns = _with_flag(turns, FLAGS[thinking or "on"])
    whole = _apply(tokenizer, turns, False, arguments)
    if not turns or turns[-1]["role"] != "assistant":
        return whole
    prompt = _apply(tokenizer, turns[:-1], True, arguments)
    if whole.startswith(prompt):
        return whole
    # Some templates write the switch only into the generation prompt, so the last answer is
    # appended to that.
    start = whole.rfind(str(turns[-1]["content"]).strip())
    return whole if start < 0 else prompt + whole[start:]


def _turn(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
        raise DataError(f"a turn is {turn!r:.80}; give mappings with 'role' and 'content'")
    if turn.get("content") is None and not turn.get("tool_calls"):
        raise DataError(f"a turn of role {turn['role']!r} has no 'content'")
    return {name: value for name, value in turn.items() if value is not None}


def _with_flag(turns: list[dict[str, Any]], flag: str) -> list[dict[str, Any]]:
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{turns[0]['content']} {flag}"}, *turns[1:]]
    return [{"role": "system", "content": flag}, *turns]


def _takes_system(tokenizer: Any) -> bool:
    try:
        _apply(tokenizer, [{"role": "system", "content": "probe"}, *_PROBE], True, {})
    except DataError:
        return False
    return True


def _apply(tokenizer: Any, turns: Messages, prompt: bool, arguments: Mapping[str, Any]) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            list(turns), tokenize=False, add_generation_prompt=prompt, **arguments
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        roles = [turn["role"] for turn in turns]
        raise DataError(
            f"the tokenizer's chat template rejects turns of roles {roles}: {error}"
        ) from error
    return str(text)
