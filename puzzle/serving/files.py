"""Files beside the weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from puzzle.errors import ParentError
from puzzle.models.given_child import has_child
from puzzle.models.pretrained import load_tokenizer
from puzzle.serving.file_names import LEGAL_FILES, TOKENIZER_FILES
from puzzle.storage.paths import user_path
from puzzle.storage.temporary_places import temporary_place


def copy_tokenizer(source: str | os.PathLike[str], directory: Path) -> bool:
    """Copies the files of a tokenizer, its chat template among them, byte by byte.

    Args:
        source: A model directory.
        directory: Where the copies go.

    Returns:
        Whether there was a tokenizer.
    """
    copied = _copy(Path(source), directory, TOKENIZER_FILES)
    return any(name.startswith(("tokenizer", "vocab")) for name in copied)


def save_tokenizer(tokenizer: Any, directory: Path) -> None:
    """Writes a tokenizer, as copies of the files it was loaded from if it has not changed since.

    Args:
        tokenizer: A transformers tokenizer.
        directory: Where the files go.
    """
    source = Path(tokenizer.name_or_path)
    if source.is_dir() and any(source.glob("tokenizer*")) and _unchanged(tokenizer, source):
        copy_tokenizer(source, directory)
    else:
        tokenizer.save_pretrained(directory)


def _unchanged(tokenizer: Any, source: Path) -> bool:
    try:
        stored = load_tokenizer(source)
    except ParentError:  # it needs code of its own, which its owner allowed when it was loaded
        return False
    same = [
        getattr(tokenizer, name, None) == getattr(stored, name, None)
        for name in ("chat_template", "special_tokens_map", "padding_side", "model_max_length")
    ]
    one, other = (tokenizer_definition(each) for each in (tokenizer, stored))
    return all(same) and one is not None and one == other


def tokenizer_definition(tokenizer: Any) -> dict[str, Any] | None:
    """Returns a fast tokenizer's definition, without its last call's padding and truncation."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    return {**json.loads(backend.to_str()), "padding": None, "truncation": None}


def copy_legal(source: str | os.PathLike[str], directory: Path) -> None:
    """Copies the licence files of a model directory."""
    _copy(Path(source), directory, LEGAL_FILES)


def _copy(source: Path, directory: Path, patterns: tuple[str, ...]) -> list[str]:
    files = sorted({file for pattern in patterns for file in source.glob(pattern)})
    for file in files:
        copy: Any = shutil.copytree if file.is_dir() else shutil.copyfile
        copy(file, directory / file.name)
    return [file.name for file in files]


@contextmanager
def child_directory(given: Any) -> Iterator[Path]:
    """Yields the directory of a child: its own, or a temporary one for a search's child.

    Args:
        given: A directory, or the result of a search or distillation.
    """
    if not has_child(given):
        yield user_path(given)
    elif given.saved is not None:
        yield given.saved
    else:
        with temporary_place() as place:
            given.child().save_pretrained(place)
            if given.tokenizer is not None:
                save_tokenizer(given.tokenizer, place)
            yield place
