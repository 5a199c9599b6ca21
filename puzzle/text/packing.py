"""PackedStream: full windows of tokens from rows of text or conversations, exactly resumable."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch

from puzzle.errors import DataError
from puzzle.text.chat import thinking_switch
from puzzle.text.containers import named_file, naming_file
from puzzle.text.rows import open_rows
from puzzle.text.thoughts import MODES
from puzzle.text.windows import EMPTY_ROWS, cut_windows, leading_token, refuse_foreign, row_tokens

logger = logging.getLogger(__name__)


class PackedStream:
    """An endless stream of token windows, the same for the same data, tokenizer and seed.

    Documents are concatenated, each followed by the end-of-text token, and cut into windows,
    each starting with the token that the tokenizer puts before a text, if it does so. All
    processes of a run read the same stream, so the contents of a batch do not depend on their
    number. Text is read again and again, but one that does not fill a window is refused.

    Args:
        data: What `open_rows` accepts.
        tokenizer: A Hugging Face tokenizer; not needed for token windows.
        length: Tokens per window.
        seed: Seed of the order.
        thinking: "both" renders conversations in each mode of the chat template in turn, "on" or
            "off" in one; without a switch there is one mode. Rows that are no example of the mode
            whose turn it is are passed over.
        system_prompts: The system prompt of each mode, where that is the switch.
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
        resumable: bool = True,
        system_prompts: Mapping[str, str] | None = None,
    ) -> None:
        if tokenizer is None and not isinstance(data, torch.Tensor):
            raise DataError("the parent has no tokenizer; pass one with tokenizer=")
        self.rows = open_rows(data, seed, resumable=resumable)
        if isinstance(data, torch.Tensor):
            refuse_foreign(data, vocab)
        self.tokenizer, self.length, self.seed, self.vocab = tokenizer, length, seed, vocab
        self._file, self.system_prompts = named_file(data), system_prompts
        switched = bool(system_prompts or (thinking == "both" and thinking_switch(tokenizer)))
        self.modes = _modes(thinking, switched)
        self.lead = None if isinstance(data, torch.Tensor) else leading_token(tokenizer)
        # What is read once is read no further than needed.
        self.buffer = buffer if resumable and not self.rows.shuffled else 1
        self.passes_over, self._begun, self.drawn = resumable, False, 0
        self._waiting: list[list[int]] = []
        self._tokens_in_all = 0  # of the rows, as far as they have been read once
        self._said = False  # that they are read again
        self._tokens: list[int] = []

    def take(self, count: int) -> torch.Tensor:
        """Returns the next windows, (count, length).

        Raises:
            DataError: All rows together do not fill one window.
        """
        length = self.length - (self.lead is not None)
        needed = count * length
        while len(self._tokens) < needed:
            self._tokens.extend(self._document())
            if self.rows.epoch and self._tokens_in_all < length:
                raise _too_short(self._tokens_in_all, length)
            self._say_once_that_rows_come_again()
        taken, self._tokens = self._tokens[:needed], self._tokens[needed:]
        return cut_windows(taken, length, self.lead)

    def _say_once_that_rows_come_again(self) -> None:
        if self.rows.epoch and not self._said:
            self._said = True
            logger.warning(
                "all %d tokens of the text have been read, and are read again from here on; give "
                "more text, or fewer tokens=",
                self._tokens_in_all,
            )

    def take_once(self, count: int) -> torch.Tensor:
        """Returns the next windows, fewer than `count` if the rows end: none is read twice.

        For a measurement, to which the same text again would add nothing but confidence.

        Raises:
            DataError: The rows do not fill one window.
        """
        length = self.length - (self.lead is not None)
        while len(self._tokens) < count * length:
            document = self._document()
            if self.rows.epoch:
                break
            self._tokens.extend(document)
        whole = min(count, len(self._tokens) // length)
        if not whole:
            raise _too_short(len(self._tokens), length)
        if whole < count:
            logger.warning(
                "the text has %d tokens, which fill %d of %d windows of %d: figures are of these",
                *(len(self._tokens), whole, count, length),
            )
        return self.take(whole)

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
            try:
                tokens = self._tokens_of(row)
            except DataError as error:
                if not (self._begun and self.passes_over):
                    with naming_file(self._file):
                        raise
                logger.warning("passed over: %s", error)
                continue
            if tokens:
                self._begun = True
                self._tokens_in_all += 0 if self.rows.epoch else len(tokens)
                return tokens
        more = "" if self.modes == (None,) else f", or are no examples of thinking {self.modes}"
        raise DataError(f"{EMPTY_ROWS} consecutive rows hold no text{more}")

    def _tokens_of(self, row: Any) -> list[int]:
        # The epoch is part of the turn, so that every row is read in every mode.
        number = self.rows.number
        mode = self.modes[(number + self.rows.epoch) % len(self.modes)]
        tokens = row_tokens(
            row,
            self.tokenizer,
            thinking=mode,
            number=number,
            system_prompts=self.system_prompts,
        )
        if self.vocab is not None and tokens and not 0 <= min(tokens) <= max(tokens) < self.vocab:
            raise DataError(
                f"row {number} (from 0): the data holds a token outside the models' vocabulary of "
                f"{self.vocab}, from {min(tokens)} to {max(tokens)}; does the tokenizer belong to "
                "them?"
            )
        return tokens

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
        self._begun, self._tokens_in_all = self.drawn > 0, self.length
        self._said = self.rows.epoch > 0
        parts = tensors["waiting"].split(tensors["waiting_sizes"].tolist())
        self._waiting = [part.tolist() for part in parts] if len(tensors["waiting_sizes"]) else []


def _too_short(tokens: int, length: int) -> DataError:
    return DataError(
        f"the text has {tokens} tokens, and one window takes {length}; give more text, or a lower "
        "length"
    )


def _modes(thinking: str, switched: bool) -> tuple[str | None, ...]:
    if thinking != "both":
        return (thinking,)
    return MODES if switched else (None,)
