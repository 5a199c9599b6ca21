"""What a user gives as text, judged before it is read: a string is text, and a Path is a file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from puzzle.errors import DataError
from puzzle.storage.paths import user_path

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
# What is neither these nor those is read as plain text.
_PACKED = {".arrow", ".bz2", ".gz", ".npy", ".npz", ".xz", ".zip", ".zst"}
_WEIGHTS = {".bin", ".gguf", ".pickle", ".pkl", ".pt", ".safetensors"}
OTHERS = _PACKED | _WEIGHTS | {".csv", ".docx", ".pdf", ".tsv", ".xlsx"}
_FILES = (
    "give the path of plain text (UTF-8, blank lines between documents), or of a .jsonl, .json or "
    ".parquet file with a 'text' or a 'messages' column"
)
# Of text and of what holds text, packed or not.
_SUFFIX = r"\.(txt|text|md|rst|jsonl?|ndjson|parquet|csv|tsv|xml|html?|arrow|pdf|gz|bz2|xz|zst|zip)"
_FILE = re.compile(rf".*{_SUFFIX}", re.IGNORECASE)
_ONE_WORD = re.compile(rf"\S+{_SUFFIX}", re.IGNORECASE)
_PLACE = re.compile(r"(~[\w.-]*|\.{1,2}|[A-Za-z]:|)[/\\]\S.*|\S*[/\\]\S*")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_LONGEST_PATH = 4096


def check_source(data: Any) -> None:
    """Refuses a string that is the name of a file, and a Path that is not one of text.

    Nothing is read, so that it can be called before anything long runs.

    Args:
        data: What a user gives as text; anything but strings and paths passes.

    Raises:
        DataError: The message says what to give.
    """
    if isinstance(data, str):
        _refuse_path(data)
    elif isinstance(data, os.PathLike):
        path = user_path(data)
        if path.is_dir():
            raise DataError(f"{path} is a directory; {_FILES}")
        if not path.exists():
            raise DataError(f"there is no text file {path}; {_FILES}")
        if path.suffix.lower() in OTHERS:
            raise DataError(f"{path} is of a kind that is not read as text; {_FILES}")


def _refuse_path(text: str) -> None:
    """Raises DataError if a text is one line that looks like the name of a file or data set."""
    line = text.strip()
    if not line or len(line) > _LONGEST_PATH or "\n" in line:
        return
    meant = "; if these words are the text itself, give them in a list"
    if _URL.fullmatch(line):
        raise DataError(
            f"the text is {line!r}, an address rather than its content; download it and give the "
            f"pathlib.Path of the file{meant}"
        )
    here = os.path.exists(os.path.expanduser(line))
    if not here and _HUB_ID.fullmatch(line) and not _FILE.fullmatch(line):
        raise DataError(
            f"the text is {line!r}; if that is a data set, give "
            f"datasets.load_dataset({line!r}, split='train'), if it is a file, which is not here, "
            f"its pathlib.Path{meant}"
        )
    if here or _FILE.fullmatch(line) or _PLACE.fullmatch(line):
        missing = "" if here else " (there is none of that name here)"
        raise DataError(
            f"the text is {line!r}, the path of a file{missing} rather than its content; give "
            f"pathlib.Path({line!r}) to have it read{meant}"
        )


def refuse_paths(rows: Sequence[str]) -> None:
    """Raises DataError if every row looks like the name of a file."""
    if all(_ONE_WORD.fullmatch(row.strip()) for row in rows):
        raise DataError(
            f"the rows are paths of files, such as {rows[0]!r}, rather than their content; give "
            "the pathlib.Path of one file, or the texts"
        )
