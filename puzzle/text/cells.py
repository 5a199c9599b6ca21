"""What a row of data holds: a text or a conversation, checked and cleaned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from puzzle.errors import DataError
from puzzle.text.paragraphs import BYTE_ORDER_MARK
from puzzle.text.thoughts import named_mode
from puzzle.text.turns import Conversation, json_types

# The columns that are read. Others may hold anything.
COLUMNS = ("text", "messages")
FIELDS = (*COLUMNS, "tools", "documents")
# What may name the mode of thinking that a row is an example of.
MODE_FIELDS = ("reasoning", "chat_template_kwargs")


def parse_row(row: Any, number: int | None = None) -> str | Conversation:
    """Returns the text or the conversation of a row.

    Args:
        row: A string, or a mapping with `text` or `messages`; `tools` and `documents` may stand
            beside `messages`.
        number: The row's number, for the message.

    Raises:
        DataError: It is neither, or both, or a cell is null, or text is not valid Unicode.

    Example:
        >>> parse_row({"text": " One. "})
        'One.'
    """
    try:
        return _parse(row)
    except DataError as error:
        if number is None:
            raise
        raise DataError(f"row {number} (from 0): {error}") from error


def _parse(row: Any) -> str | Conversation:
    if isinstance(row, str):
        return _clean(row)
    if is_null(row):
        raise DataError("it is null; remove it or fill it in")
    if isinstance(row, Mapping):
        present = [name for name in COLUMNS if name in row]
        filled = [name for name in present if not is_null(row[name])]
        if len(filled) == 2:
            raise DataError("it has both 'text' and 'messages'; keep one of them")
        if filled == ["text"] and isinstance(row["text"], str):
            return _clean(str(row["text"]))
        if filled == ["messages"]:
            given = {name: _optional(row.get(name)) for name in ("tools", "documents")}
            conversation = Conversation.of(row["messages"], **given, mode=named_mode(row))
            _require_unicode(json.dumps(vars_of(conversation), ensure_ascii=False))
            return conversation
        if present and not filled:
            raise DataError(f"its {present[0]!r} is null; remove such rows or fill them in")
        if not present:
            raise DataError(
                f"it has the columns {[str(name)[:40] for name in row][:12]}; give strings, or "
                "rows with 'text' or 'messages'"
            )
    if isinstance(row, Path):
        raise DataError(f"it is the path {row}; give one file, or rows read from the files")
    raise DataError(f"it is {row!r:.80}; give strings, or rows with 'text' or 'messages'")


def vars_of(conversation: Conversation) -> list[Any]:
    """Returns all that a conversation holds."""
    return [conversation.turns, conversation.tools, conversation.documents]


def _optional(cell: Any) -> Any:
    return None if is_null(cell) else cell


def is_null(cell: Any) -> bool:
    """Whether a cell is empty as tables mark it: None, NaN, or the NA and NaT of pandas."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float) and cell != cell


def _clean(text: str) -> str:
    _require_unicode(text)
    return text.removeprefix(BYTE_ORDER_MARK).strip()


def _require_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"its text has a lone surrogate at character {error.start}, which is no Unicode; read "
            "it with errors='replace'"
        ) from error


def hash_rows(rows: Iterable[Any]) -> str:
    """Returns a hash of every byte of rows that is read, each row being checked.

    Raises:
        DataError: A row is unusable; it names the row.
    """
    digest = new_digest()
    for number, row in enumerate(rows):
        parse_row(row, number)
        update_digest(digest, row)
    return str(digest.hexdigest())


def new_digest() -> Any:
    """Returns the start of a running hash of rows."""
    return hashlib.blake2b(digest_size=16)


def update_digest(digest: Any, row: Any) -> None:
    """Adds what is read of a row to a running hash; unusable rows count by what they show."""
    value = row
    if isinstance(row, Mapping):
        value = {name: row[name] for name in FIELDS if name in row}
        if "messages" in row:
            value |= {name: row[name] for name in MODE_FIELDS if name in row}
    try:
        data = json.dumps(json_types(value, "row"), sort_keys=True).encode()
    except DataError:
        data = repr(value).encode(errors="backslashreplace")
    digest.update(f"{len(data)}:".encode() + data)
