"""Conversations as text: rendered by the tokenizer's chat template, in each thinking mode."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from puzzle.errors import DataError
from puzzle.text.template_rendering import apply_template
from puzzle.text.turns import Conversation, Messages

logger = logging.getLogger(__name__)

MODES = ("on", "off")
FLAGS = {"on": "/think", "off": "/no_think"}
# What was found out about tokenizers, each with the template that it had.
_SWITCHES: WeakKeyDictionary[Any, tuple[Any, str | None]] = WeakKeyDictionary()
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
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    known = _SWITCHES.get(tokenizer)
    if known is None or known[0] != template:
        known = _SWITCHES[tokenizer] = (template, _switch(tokenizer))
    return known[1]


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
    tools: Any = None,
    documents: Any = None,
) -> str:
    """Returns a conversation as the parent was trained to read it.

    Args:
        messages: Turns with `role` and `content`. A content of several parts of text is joined.
        tokenizer: A Hugging Face tokenizer; without a chat template, turns are joined as
            `role: content`.
        thinking: "on" or "off" for a template with a switch, None for the template's default.
        tools: Descriptions of the tools that the assistant may call.
        documents: Documents that the assistant may quote.

    Raises:
        DataError: A turn lacks its role or content, or the template rejects the conversation.

    Example:
        >>> render_chat([{"role": "user", "content": "Hello"}], None)
        'user: Hello'
    """
    conversation = Conversation.of(messages, tools=tools, documents=documents)
    return render_conversation(conversation, tokenizer, thinking=thinking)


def render_conversation(
    conversation: Conversation, tokenizer: Any, *, thinking: str | None = None
) -> str:
    """Returns what `render_chat` does, of a conversation that was checked."""
    if thinking is not None and thinking not in MODES:
        raise DataError(f"thinking={thinking!r}; allowed: 'on', 'off', None")
    if not getattr(tokenizer, "chat_template", None):
        return _joined(conversation)
    switch = thinking_switch(tokenizer) if thinking else None
    turns, arguments = conversation.turns, {}
    if switch == "argument":
        arguments["enable_thinking"] = thinking == "on"
    elif switch == "system":
        turns = _with_flag(turns, FLAGS[thinking or "on"])
    _warn_of_unread(conversation, tokenizer)
    given: dict[str, Any] = {
        "tools": conversation.tools,
        "documents": conversation.documents,
        "arguments": arguments,
    }
    whole = apply_template(tokenizer, turns, **given)
    if turns[-1]["role"] != "assistant" or len(turns) == 1:
        return whole
    prompt = apply_template(tokenizer, turns[:-1], prompt=True, **given)
    answer = turns[-1].get("content", "").strip()
    if whole.startswith(prompt) or not answer:
        return whole
    # Some templates write the switch only into the generation prompt, so the last answer is
    # appended to that.
    start = whole.rfind(answer)
    return whole if start < 0 else prompt + whole[start:]


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


def _with_flag(turns: list[dict[str, Any]], flag: str) -> list[dict[str, Any]]:
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{turns[0]['content']} {flag}"}, *turns[1:]]
    return [{"role": "system", "content": flag}, *turns]


def _takes_system(tokenizer: Any) -> bool:
    try:
        apply_template(tokenizer, [{"role": "system", "content": "probe"}, *_PROBE], prompt=True)
    except DataError:
        return False
    return True
