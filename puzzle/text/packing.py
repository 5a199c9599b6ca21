"""PackedStream: full windows of tokens from rows of text or conversations, exactly resumable."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch

from puzzle.errors import DataError
from puzzle.text.chat import MODES, thinking_switch
from puzzle.text.rows import open_rows
from puzzle.text.windows import row_text

# After so many rows without a token, the data counts as empty.
EMPTY_ROWS = 10_000


class PackedStream:
    """An endless stream of token windows, the same for the same data, tokenizer and seed.

    Documents are concatenated, each followed by the end-of-text token, and cut into windows. All
    processes of a run read the same stream, so the contents of a batch do not depend on their
    number.

    Args:
        data: What `open_rows` accepts.
        tokenizer: A Hugging Face tokenizer; not needed for token windows.
        length: Tokens per window.
        seed: Seed of the order.
        thinking: "both" renders conversations in each mode of the chat template in turn, "on" or
            "off" in one; without a switch in the template there is one mode.
        buffer: Documents among which a streamed dataset is shuffled.
        vocab: Size of the models' vocabulary; tokens outside it are refused.

    Raises:
        DataError: The data is of an unknown kind or empty, or there is no tokenizer.
    """

    def __init__(
        self,
        data: Any,
        tokenizer: Any,
        *,
        length: int,
        seed: int = 0,
        thinking: str = "both",
        buffer: int = 1000,
        vocab: int | None = None,
    ) -> None:
        if tokenizer is None and not isinstance(data, torch.Tensor):
            raise DataError("the parent has no tokenizer; pass one with tokenizer=")
        self.rows = open_rows(data, seed)
        self.tokenizer, self.length, self.seed, self.vocab = tokenizer, length, seed, vocab
        self.modes = _modes(tokenizer, thinking)
        self.buffer = 1 if self.rows.shuffled else buffer
        self.drawn = 0
        self._waiting: list[list[int]] = []
        self._tokens: list[int] = []

    def take(self, count: int) -> torch.Tensor:
        """Returns the next windows, (count, length)."""
        needed = count * self.length
        while len(self._tokens) < needed:
            self._tokens.extend(self._document())
        taken, self._tokens = self._tokens[:needed], self._tokens[needed:]
        windows = torch.tensor(taken, dtype=torch.long).view(count, self.length)
        refuse_foreign(windows, self.vocab)
        return windows

    def _document(self) -> list[int]:
        """Returns the tokens of one document, drawn from the waiting ones."""
        while len(self._waiting) < self.buffer:
            self._waiting.append(self._next_tokens())
        # Made anew for every draw, so that there is no generator state to store.
        place = int(np.random.default_rng([self.seed, self.drawn]).integers(len(self._waiting)))
        self.drawn += 1
        self._waiting[place], self._waiting[-1] = self._waiting[-1], self._waiting[place]
        return self._waiting.pop()

    def _next_tokens(self) -> list[int]:
        for _ in range(EMPTY_ROWS):
            row = self.rows.next()
            if isinstance(row, torch.Tensor):
                return [int(token) for token in row]
            # The epoch is part of the turn, so that every row is read in every mode.
            mode = self.modes[(self.rows.number + self.rows.epoch) % len(self.modes)]
            text = row_text(row, self.tokenizer, thinking=mode)
            if text:
                tokens = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
                end = self.tokenizer.eos_token_id
                return tokens if end is None else [*tokens, end]
        raise DataError(f"{EMPTY_ROWS} consecutive rows hold no text")

    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Returns the position of the stream: JSON values, and the tokens that are waiting."""
        values = {"rows": self.rows.state(), "drawn": self.drawn}
        sizes = [len(tokens) for tokens in self._waiting]
        tensors = {
            "tokens": torch.tensor(self._tokens, dtype=torch.int64),
            "waiting": torch.tensor([*chain(*self._waiting)], dtype=torch.int64),
            "waiting_sizes": torch.tensor(sizes, dtype=torch.int64),
        }
        return values, tensors

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Returns to the position of a state."""
        self.rows.restore(values["rows"])
        self.drawn = values["drawn"]
        self._tokens = tensors["tokens"].tolist()
        parts = tensors["waiting"].split(tensors["waiting_sizes"].tolist())
        self._waiting = [part.tolist() for part in parts] if len(tensors["waiting_sizes"]) else []


def refuse_foreign(windows: torch.Tensor, vocab: int | None) -> None:
    """Raises DataError if a token is not in the vocabulary."""
    if vocab is not None and not bool(((windows >= 0) & (windows < vocab)).all()):
        bad = windows[(windows < 0) | (windows >= vocab)][0]
        raise DataError(
            f"the data holds token {bad}, which is outside the models' vocabulary of {vocab}; "
            "does the tokenizer belong to them?"
        )


def _modes(tokenizer: Any, thinking: str) -> tuple[str | None, ...]:
    if thinking != "both":
        return (thinking,)
    return MODES if thinking_switch(tokenizer) else (None,)
