"""Conversations as text: rendered by the tokenizer's chat template, in each thinking mode."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from puzzle.errors import DataError
from puzzle.text.template_rendering import apply_template
from puzzle.text.thoughts import CLOSE, FIELD, MODES, OPEN, THOUGHT_FIELDS, turn_in_mode
from puzzle.text.turns import Conversation, Messages

logger = logging.getLogger(__name__)

FLAGS = {"on": "/think", "off": "/no_think"}
Turns = list[dict[str, Any]]
# What was found out about tokenizers, each with the template that it had.
_SWITCHES: WeakKeyDictionary[Any, tuple[Any, str | None, str | None]] = WeakKeyDictionary()
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
    return _tried(tokenizer)[0]


def _tried(tokenizer: Any) -> tuple[str | None, str | None]:
    """Returns the switch of a template, and the field that it reads thoughts from, if any."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None, None
    known = _SWITCHES.get(tokenizer)
    if known is None or known[0] != template:
        switch = _switch(tokenizer)
        known = _SWITCHES[tokenizer] = (template, switch, _thought_field(tokenizer))
    return known[1:]


def _thought_field(tokenizer: Any) -> str | None:
    thought = "probe of a thought"
    for name in THOUGHT_FIELDS:
        turns = [*_PROBE, {"role": "assistant", "content": "answer", name: thought}]
        if thought in apply_template(tokenizer, turns, arguments={"enable_thinking": True}):
            return name
    return None


def _switch(tokenizer: Any) -> str | None:
    on, off = (
        apply_template(tokenizer, _PROBE, prompt=True, arguments={"enable_thinking": mode})
        for mode in (True, False)
    )
    if on != off:
        return "argument"
    if not _takes_system(tokenizer):
        return None
    texts = []
    for flag in FLAGS.values():
        turns = [{"role": "system", "content": flag}, *_PROBE]
        text = apply_template(tokenizer, turns, prompt=True)
        texts.append(text.replace(flag, ""))
    # A template without a switch repeats the flag like any other text.
    return None if texts[0] == texts[1] else "system"


def render_chat(
    messages: Messages,
    tokenizer: Any,
    *,
    thinking: str | None = None,
    system_prompts: Mapping[str, str] | None = None,
    tools: Any = None,
    documents: Any = None,
) -> str:
    """Returns a conversation as the parent was trained to read it.

    A thought stands in the content of an assistant's turn, between `<think>` and `</think>`, or in
    its `reasoning_content`.

    Args:
        messages: Turns with `role` and `content`. A content of several parts of text is joined.
        tokenizer: A Hugging Face tokenizer; without a chat template, turns are joined as
            `role: content`.
        thinking: "on" or "off" for a template with a switch, None for the template's default. "off"
            leaves out the thoughts; "on" needs one in the last answer.
        system_prompts: The system prompt of each mode, for a model whose switch that is; by
            default the switch is looked for in the template.
        tools: Descriptions of the tools that the assistant may call.
        documents: Documents that the assistant may quote.

    Raises:
        DataError: A turn lacks its role or content, the template rejects the conversation, or it is
            no example of the mode.

    Example:
        >>> render_chat([{"role": "user", "content": "Hello"}], None)
        'user: Hello'
    """
    conversation = Conversation.of(messages, tools=tools, documents=documents)
    text = render_conversation(
        conversation, tokenizer, thinking=thinking, system_prompts=system_prompts
    )
    if text is None:
        raise DataError(
            f"the conversation is no example of thinking={thinking!r}: 'on' needs a thought before "
            "the last answer, both need the answer after it, and a system message must not ask "
            "for the other mode"
        )
    return text


def render_conversation(
    conversation: Conversation,
    tokenizer: Any,
    *,
    thinking: str | None = None,
    system_prompts: Mapping[str, str] | None = None,
) -> str | None:
    """Returns what `render_chat` does, of a conversation that was checked.

    Returns:
        The text; None of a conversation that is no example of the mode.
    """
    if thinking is not None and thinking not in MODES:
        raise DataError(f"thinking={thinking!r}; allowed: 'on', 'off', None")
    if not getattr(tokenizer, "chat_template", None):
        return _joined(conversation)
    if not (thinking or conversation.mode or system_prompts):
        return _render(conversation, conversation.turns, tokenizer)
    switch, field = _tried(tokenizer)
    named = conversation.mode or _mode_by_system(conversation.turns, switch, system_prompts)
    mode = thinking or named
    if mode is None or not (switch or system_prompts):
        return _render(conversation, conversation.turns, tokenizer)
    if named not in (None, mode):
        return None
    turns = _turns_in_mode(conversation.turns, mode, field)
    if turns is None:
        return None
    if system_prompts:
        turns = with_system_prompt(turns, mode, system_prompts)
    elif switch == "system":
        turns = turns if named else _with_flag(turns, FLAGS[mode])
    arguments = {"enable_thinking": mode == "on"} if switch == "argument" else {}
    return _render(conversation, turns, tokenizer, arguments)


def render_prompt(
    question: str | Messages,
    tokenizer: Any,
    *,
    thinking: str | None = None,
    system_prompts: Mapping[str, str] | None = None,
) -> str:
    """Returns the prompt for the answer to a question, in a mode of the template's switch.

    Args:
        question: What the user says, or all turns up to the answer.
        tokenizer: A Hugging Face tokenizer with a chat template.
        thinking: "on" or "off", None for the template's default.
        system_prompts: The system prompt of each mode, for a model whose switch that is.

    Raises:
        DataError: There is no template, or it has no switch for the mode.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError("the tokenizer has no chat template, which a prompt needs")
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    turns = Conversation.of(messages).turns
    switch = thinking_switch(tokenizer) if thinking and not system_prompts else None
    if thinking and (thinking not in MODES or not (switch or system_prompts)):
        raise DataError(
            f"thinking={thinking!r} needs 'on' or 'off' and a chat template that has a switch; "
            "puzzle.add_thinking_switch gives it one"
        )
    if thinking and system_prompts:
        turns = with_system_prompt(turns, thinking, system_prompts)
    elif switch == "system":
        turns = _with_flag(turns, FLAGS[thinking or "on"])
    arguments = {"enable_thinking": thinking == "on"} if switch == "argument" else {}
    return apply_template(tokenizer, turns, prompt=True, arguments=arguments)


def _mode_by_system(
    turns: Turns, switch: str | None, prompts: Mapping[str, str] | None
) -> str | None:
    """Returns the mode that the system message asks for, None if it asks for none."""
    if turns[0]["role"] != "system":
        return None
    text = turns[0].get("content", "").strip()
    if prompts:
        return next((mode for mode, prompt in prompts.items() if text == prompt.strip()), None)
    flags = [mode for mode in MODES if FLAGS[mode] in text.split()] if switch == "system" else []
    return flags[0] if len(flags) == 1 else None


def _turns_in_mode(turns: Turns, mode: str, field: str | None) -> Turns | None:
    """Returns turns with the thoughts of a mode, None if they are no example of it.

    Args:
        turns: The turns.
        mode: "on" or "off".
        field: The field that the template reads thoughts from; if none, only the last one is
            kept, since earlier turns are shown without theirs.
    """
    chosen = []
    for number, turn in enumerate(turns, 1):
        made: dict[str, Any] | None = turn
        if turn["role"] == "assistant":
            last = number == len(turns)
            made = turn_in_mode(turn, mode if last or field else "off")
            if made is None and not last:
                made = turn_in_mode(turn, "off")
        if made is None:
            return None
        if field and FIELD in made:
            made = {**made, field: made[FIELD]}
        chosen.append(made)
    return chosen


def _render(
    conversation: Conversation,
    turns: Turns,
    tokenizer: Any,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    _warn_of_unread(conversation, tokenizer)
    given: dict[str, Any] = {
        "tools": conversation.tools,
        "documents": conversation.documents,
        "arguments": arguments,
    }
    thought = turns[-1].get(FIELD, "") if turns is not conversation.turns else ""
    whole = apply_template(tokenizer, turns, **given)
    if turns[-1]["role"] != "assistant" or len(turns) == 1:
        return whole
    prompt = apply_template(tokenizer, turns[:-1], prompt=True, **given)
    answer = turns[-1].get("content", "").strip()
    if not answer or (whole.startswith(prompt) and thought in whole[len(prompt) :]):
        return whole
    # Some templates write the switch only into the generation prompt, and some leave out thoughts:
    # the last answer, with its thought, is appended to the prompt.
    start = whole.rfind(answer)
    return whole if start < 0 else prompt + _written(thought, prompt) + whole[start:]


def _written(thought: str, prompt: str) -> str:
    """Returns a thought as it follows a prompt, which may have opened it."""
    if not thought:
        return ""
    opened = prompt.rstrip().endswith(OPEN)
    return ("" if opened else f"{OPEN}\n") + f"{thought}\n{CLOSE}\n\n"


def _joined(conversation: Conversation) -> str:
    """Returns a conversation without a template, with all that it holds."""
    lines = [
        f"{name}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in (("tools", conversation.tools), ("documents", conversation.documents))
        if value is not None
    ]
    for turn in conversation.turns:
        content, calls = turn.get("content", ""), turn.get("tool_calls")
        called = json.dumps(calls, ensure_ascii=False) if calls else ""
        lines.append(f"{turn['role']}: {content}{' ' if content and called else ''}{called}")
    return "\n".join(lines)


def _warn_of_unread(conversation: Conversation, tokenizer: Any) -> None:
    template = tokenizer.chat_template
    source = "\n".join(template.values()) if isinstance(template, Mapping) else str(template)
    for name in ("tools", "documents"):
        if getattr(conversation, name) is not None and name not in source:
            _warn_once(name)


@lru_cache
def _warn_once(name: str) -> None:
    logger.warning("rows have %r, which the tokenizer's chat template does not read", name)


def _with_flag(turns: Turns, flag: str) -> Turns:
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{turns[0]['content']} {flag}"}, *turns[1:]]
    return [{"role": "system", "content": flag}, *turns]


def mode_of_system(turns: Sequence[Mapping[str, Any]], prompts: Mapping[str, str]) -> str | None:
    """Returns the mode whose prompt the system message starts with, None if it is none's.

    Args:
        turns: The turns.
        prompts: The system prompt of each mode.

    Example:
        >>> prompts = {"on": "detailed thinking on", "off": "detailed thinking off"}
        >>> mode_of_system([{"role": "system", "content": "detailed thinking off"}], prompts)
        'off'
    """
    if turns[0].get("role") != "system":
        return None
    text = f"{str(turns[0].get('content', '')).strip()}\n"
    return next((m for m, own in prompts.items() if text.startswith(f"{own.strip()}\n")), None)


def with_system_prompt(turns: Turns, mode: str, prompts: Mapping[str, str]) -> Turns:
    """Returns turns whose system message starts with the prompt of a mode.

    Args:
        turns: The turns.
        mode: "on" or "off".
        prompts: The system prompt of each mode.
    """
    lines, rest = [prompts[mode]], turns
    if turns[0]["role"] == "system":
        rest = turns[1:]
        if turns[0].get("content", "").strip() != prompts[mode].strip():
            lines.append(turns[0].get("content", ""))
    return [{"role": "system", "content": "\n\n".join(lines)}, *rest]


def _takes_system(tokenizer: Any) -> bool:
    try:
        apply_template(tokenizer, [{"role": "system", "content": "probe"}, *_PROBE], prompt=True)
    except DataError:
        return False
    return True
