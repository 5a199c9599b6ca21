"""Conversation: the turns, tools and documents of a row, in the one form that templates read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puzzle.errors import DataError

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as chat templates read it.

    Args:
        turns: Mappings with `role` and, except where there are tool calls, a text as `content`.
        tools: Descriptions of the tools that the assistant may call.
        documents: Documents that the assistant may quote.
        mode: The one mode of thinking, "on" or "off", that it is an example of; None for any.
    """

    turns: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, Any]] | None = None
    mode: str | None = None

    @classmethod
    def of(
        cls, messages: Any, *, tools: Any = None, documents: Any = None, mode: str | None = None
    ) -> Conversation:
        """Returns a conversation from what rows of data hold.

        Args:
            messages: A list of turns. A `content` that is a list of parts is joined if all parts
                are text.
            tools: A list of descriptions, or the same as JSON.
            documents: Likewise.
            mode: The mode that the row names.

        Raises:
            DataError: A turn lacks its role or content, or has a part that is no text.
        """
        turns = _listed(messages, "messages")
        if turns is None:
            raise DataError(f"'messages' is {messages!r:.80}; give a list of turns")
        if not turns:
            raise DataError("'messages' is empty; give at least one turn")
        return cls(
            turns=[_turn(turn) for turn in turns],
            tools=_mappings(tools, "tools"),
            documents=_mappings(documents, "documents"),
            mode=mode,
        )


def _listed(value: Any, what: str) -> list[Any] | None:
    """Returns a list of what a cell holds: a list, a tuple, an array of numpy, or JSON of one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{what!r} is a text that is not JSON; give a list") from error
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else None


def _mappings(value: Any, what: str) -> list[dict[str, Any]] | None:
    if value is None:
        return None
    items = _listed(value, what)
    if items is None or not all(isinstance(item, Mapping) for item in items):
        raise DataError(f"{what!r} is {value!r:.80}; give a list of mappings, or the same as JSON")
    # No tools and no list of tools are the same thing, but templates tell them apart.
    return [json_types(item, what) for item in items] or None


def _turn(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
        more = "; rename 'from' and 'value'" if isinstance(turn, Mapping) and "from" in turn else ""
        raise DataError(f"a turn is {turn!r:.80}; give mappings with 'role' and 'content'{more}")
    role, content = turn["role"], turn.get("content")
    if content is None and not _filled(turn.get("tool_calls")):
        raise DataError(f"a turn of role {role!r} has no 'content'")
    values = {str(name): json_types(value, "messages") for name, value in turn.items()}
    values = {name: value for name, value in values.items() if value is not None}
    if content is not None:
        values["content"] = _content(role, content)
    return values


def _filled(value: Any) -> bool:
    return value is not None and not (hasattr(value, "__len__") and len(value) == 0)


def _content(role: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = None if isinstance(content, str) else json_types(content, "messages")
    if not isinstance(parts, list):
        raise DataError(f"the 'content' of a turn of role {role!r} is {content!r:.80}; give text")
    return "".join(_part(role, part) for part in parts)


def _part(role: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    if kind == "text" and isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    raise DataError(
        f"the 'content' of a turn of role {role!r} has a part of type {kind!r}; only text is "
        "read: remove such rows, or replace the part by text"
    )


def json_types(value: Any, what: str) -> Any:
    """Returns a value of a row as plain JSON types; arrays of numpy become lists.

    Raises:
        DataError: It holds something else, or is nested too deeply.
    """
    try:
        return _json_types(value, what)
    except RecursionError as error:
        raise DataError(f"{what!r} is nested too deeply") from error


def _json_types(value: Any, what: str) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
        if value is None or isinstance(value, str | bool | int | float):
            return value
    if isinstance(value, Mapping):
        return {str(key): _json_types(item, what) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_types(item, what) for item in value]
    raise DataError(
        f"{what!r} holds {value!r:.60} ({type(value).__name__}); allowed are text, numbers, lists "
        "and mappings: convert it"
    )


def without_fill(row: Any) -> Any:
    """Returns a row of an Arrow table without the nulls that fill up its nested columns.

    Arrow gives every mapping of a column all keys that any of them has.
    """
    if not isinstance(row, Mapping):
        return row
    nested = ("messages", "tools", "documents", "chat_template_kwargs")
    return {key: _pruned(value) if key in nested else value for key, value in row.items()}


def _pruned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _pruned(item) for key, item in value.items() if item is not None}
    return [_pruned(item) for item in value] if isinstance(value, list) else value
