"""Text in, token windows out: split by document into fit, score and validation parts.

The fit part trains the library, the score part ranks its variants, and the validation part is
only ever used to report; nothing is chosen with it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from puzzle.errors import DataError
from puzzle.storage.hashing import hash_tensors
from puzzle.storage.tensor_files import save_tensors
from puzzle.storage.workspace import Workspace
from puzzle.text.chat import render_chat
from puzzle.text.data_config import PARTS, DataConfig

KIND, FILE = "windows", "windows.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """Token windows of the three parts, each an int64 tensor of shape (windows, window)."""

    fit: torch.Tensor
    score: torch.Tensor
    validation: torch.Tensor
    _hashes: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def hash(self, part: str) -> str:
        """Returns the content hash of one part, which names the artifacts made from it."""
        if part not in self._hashes:
            self._hashes[part] = hash_tensors({part: getattr(self, part)})
        return self._hashes[part]

    def store(self, workspace: Workspace) -> tuple[tuple[str, str], ...]:
        """Stores the windows in a workspace and returns the name by which `stored` reads them."""
        name = tuple((part, self.hash(part)) for part in PARTS)
        tensors = {part: getattr(self, part) for part in PARTS}
        workspace.get_or_build(KIND, dict(name), lambda to: save_tensors(to / FILE, tensors))
        return name

    @classmethod
    def stored(cls, workspace: Workspace, name: tuple[tuple[str, str], ...]) -> Windows:
        """Returns the windows that `store` wrote."""
        return cls(**workspace.artifact(KIND, dict(name)).load_tensors(FILE))


def documents(text: Any, tokenizer: Any = None) -> list[str]:
    """Returns the documents of a string, a list of strings, or a dataset with a text column.

    One string is split at blank lines. Rows with `messages` instead of text are rendered by the
    tokenizer's chat template, or joined as `role: content` if there is none.

    Raises:
        DataError: The input is none of these, or it holds no text.

    Example:
        >>> documents("One paragraph.\\n\\nAnother.")
        ['One paragraph.', 'Another.']
    """
    if isinstance(text, str):
        texts = [part.strip() for part in text.split("\n\n")]
    elif isinstance(text, Iterable):
        texts = [row_text(row, tokenizer) for row in text]
    else:
        raise DataError(
            f"text is a {type(text).__name__}; give a string, a list of strings, or a dataset "
            "whose rows have a 'text' or a 'messages' column"
        )
    texts = [document for document in texts if document]
    if not texts:
        raise DataError("the text is empty; give some English text, a few hundred kilobytes")
    return texts


def row_text(row: Any, tokenizer: Any = None, *, thinking: str | None = None) -> str:
    """Returns the text of one row: a string, or a mapping with `text` or `messages`.

    Args:
        row: The row.
        tokenizer: Renders `messages`, as in `puzzle.text.chat.render_chat`.
        thinking: Mode in which `messages` are rendered.

    Raises:
        DataError: The row is none of these.
    """
    if isinstance(row, str):
        return row.strip()
    if isinstance(row, Mapping) and isinstance(row.get("text"), str):
        return str(row["text"]).strip()
    if isinstance(row, Mapping) and isinstance(row.get("messages"), Sequence):
        return render_chat(row["messages"], tokenizer, thinking=thinking)
    raise DataError(
        f"a row of the text is {row!r:.80}; give strings, or rows with 'text' or 'messages'"
    )


def windows(text: Any, tokenizer: Any, config: DataConfig) -> Windows:
    """Cuts text into full token windows, no document appearing in more than one part.

    Documents are shuffled by the seed and dealt out until each part has its tokens. A part
    reads its windows from the concatenation of its documents.

    Args:
        text: What `documents` accepts.
        tokenizer: A Hugging Face tokenizer.
        config: Sizes and seed.

    Returns:
        The windows of the three parts.

    Raises:
        DataError: There is no tokenizer, or there are too few documents or tokens; the message
            says how many are needed.
    """
    if tokenizer is None:
        raise DataError("the parent has no tokenizer; pass one with tokenizer=")
    texts = documents(text, tokenizer)
    order = list(range(len(texts)))
    random.Random(config.seed).shuffle(order)
    wanted = {part: config.windows(part) * config.window for part in PARTS}
    separator = tokenizer.eos_token_id
    cuts: dict[str, list[int]] = {part: [] for part in PARTS}
    remaining = iter(order)
    for part in ("validation", "score", "fit"):
        tokens = cuts[part]
        for index in remaining:
            tokens.extend(tokenizer(texts[index], add_special_tokens=False)["input_ids"])
            if separator is not None:
                tokens.append(separator)
            if len(tokens) >= wanted[part]:
                break
    short = {part: len(cuts[part]) for part in PARTS if len(cuts[part]) < wanted[part]}
    if short:
        have = sum(len(tokens) for tokens in cuts.values())
        raise DataError(
            f"the text is too short: {len(texts)} documents, {have} tokens used, and "
            f"{', '.join(f'{part} has {n} of {wanted[part]}' for part, n in short.items())}; "
            f"give about {sum(wanted.values())} tokens in at least three documents (blank lines "
            "separate documents in a string), or ask for fewer tokens in DataConfig"
        )
    return Windows(**{part: _cut(cuts[part], wanted[part], config.window) for part in PARTS})


def _cut(tokens: list[int], wanted: int, window: int) -> torch.Tensor:
    return torch.tensor(tokens[:wanted], dtype=torch.long).view(-1, window)
