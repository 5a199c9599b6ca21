"""Text in, token windows out: split by document into fit, score and validation parts.

The fit part trains the library, the score part ranks its variants, and the validation part is
only ever used to report; nothing is chosen with it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from puzzle.errors import DataError
from puzzle.storage.hashing import hash_tensors
from puzzle.storage.tensor_files import save_tensors
from puzzle.storage.workspace import Workspace
from puzzle.text.cells import parse_row
from puzzle.text.chat import render_conversation
from puzzle.text.containers import indexable, named_file, naming_file, reading, rows_of
from puzzle.text.data_config import PARTS, DataConfig
from puzzle.text.template_rendering import rendered_tokens

logger = logging.getLogger(__name__)

KIND, FILE = "windows", "windows.safetensors"
# So many rows without a single token mean that there are none.
EMPTY_ROWS = 10_000
# Bytes of a file that is read whole, so that it gives the same windows as its content.
WHOLE_FILE = 64 * 2**20
_USES = {"fit": "fit", "score": "score", "validation": "report"}
_EMPTY = "the text is empty; give some English text, a few hundred kilobytes"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """Token windows of the three parts, each an int64 tensor of shape (windows, window).

    `further` are windows, in none of the parts, that healing reads after those of the fits.
    Of several texts, `by_text` has the validation windows of each by its name.
    """

    fit: torch.Tensor
    score: torch.Tensor
    validation: torch.Tensor
    further: torch.Tensor | None = None
    by_text: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False)
    _hashes: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def for_healing(self) -> Windows:
        """The same text with the further windows in the fit part."""
        if self.further is None:
            return self
        fit = torch.cat([self.fit, self.further])
        return Windows(fit=fit, score=self.score, validation=self.validation)

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


def documents(text: Any, tokenizer: Any = None, *, thinking: str | None = None) -> list[str]:
    """Returns the documents of a text, all of them.

    Args:
        text: What `puzzle.text.containers.rows_of` accepts, except tokens and what never ends.
        tokenizer: Its chat template renders rows with `messages`; without one, their turns are
            joined as `role: content`.
        thinking: Mode in which `messages` are rendered; rows that are no example of it are left
            out.

    Raises:
        DataError: The input is none of these, a row is unusable, or there is no text.

    Example:
        >>> documents("One paragraph.\\n\\nAnother.")
        ['One paragraph.', 'Another.']
    """
    rows = rows_of(text)
    if isinstance(rows, torch.Tensor):
        raise DataError("the text is a matrix of tokens; give text")
    texts = [
        row_text(row, tokenizer, thinking=thinking, number=number)
        for number, row in enumerate(reading(rows, named_file(text)))
    ]
    texts = [document for document in texts if document]
    if not texts:
        raise DataError(_EMPTY)
    return texts


def row_text(
    row: Any,
    tokenizer: Any = None,
    *,
    thinking: str | None = None,
    number: int | None = None,
    system_prompts: Mapping[str, str] | None = None,
) -> str:
    """Returns the text of one row: a string, or a mapping with `text` or `messages`.

    A row that is no example of the mode has none.

    Args:
        row: The row. `tools` and `documents` beside `messages` are given to the template.
        tokenizer: Renders `messages`, as in `puzzle.text.chat.render_chat`.
        thinking: Mode in which `messages` are rendered.
        number: The row's number, for the message.
        system_prompts: The switch, as in `puzzle.text.chat.render_chat`.

    Raises:
        DataError: The row is none of these, or the template rejects it.
    """
    parsed = parse_row(row, number)
    if isinstance(parsed, str):
        return parsed
    try:
        return (
            render_conversation(parsed, tokenizer, thinking=thinking, system_prompts=system_prompts)
            or ""
        )
    except DataError as error:
        if number is None:
            raise
        raise DataError(f"row {number} (from 0): {error}") from error


def windows(
    text: Any,
    tokenizer: Any,
    config: DataConfig,
    *,
    vocab: int | None = None,
    shorten: bool = False,
) -> Windows:
    """Cuts text into full token windows, no document appearing in more than one part.

    Rows that can be indexed, and those of a file of up to 64 MiB, are shuffled by the seed and
    dealt out until each part has its tokens. A stream is read no further than that: each document
    goes to the part that is filled least. A part reads its windows from the concatenation of its
    documents; each window starts with the token that the tokenizer puts before a text, if it does
    so.

    Args:
        text: What `puzzle.text.containers.rows_of` accepts.
        tokenizer: A Hugging Face tokenizer; not needed for rows of tokens.
        config: Sizes and seed.
        vocab: Rows of the model's embedding, to refuse tokens beyond them.
        shorten: Whether text that is shorter than `config` asks for is used as far as it goes, with
            a warning; `MIN_WINDOWS` are needed all the same.

    Returns:
        The windows of the three parts.

    Raises:
        DataError: There is no tokenizer, a row is unusable, or there are too few documents or
            tokens; the message says how many are needed.
    """
    if tokenizer is None and not isinstance(text, torch.Tensor):
        raise DataError("the parent has no tokenizer; pass one with tokenizer=")
    rows, file = rows_of(text), named_file(text)
    if file is not None and file.stat().st_size <= WHOLE_FILE:
        rows = list(reading(rows, file))
    lead = None if isinstance(rows, torch.Tensor) else leading_token(tokenizer)
    length = config.window - (lead is not None)
    deal = Deal({part: config.windows(part) * length for part in PARTS})
    with naming_file(file):
        if indexable(rows):
            order = list(range(len(rows)))
            random.Random(config.seed or 0).shuffle(order)
            numbered = ((number, rows[number]) for number in order)
            deal.fill_in_turn(numbered, tokenizer)
        else:
            numbered = ((number, row) for number, row in enumerate(reading(rows, file)))
            deal.fill_evenly(numbered, tokenizer)
        further = deal.further(numbered, tokenizer, config, length)
        if shorten and not deal.full:
            deal = deal.shortened(config, length)
        deal.require_full()
    cut = {
        part: cut_windows(deal.tokens[part][: deal.wanted[part]], length, lead) for part in PARTS
    }
    if further:
        cut["further"] = cut_windows(further, length, lead)
    for each in cut.values():
        refuse_foreign(each, vocab)
    return Windows(**cut)


class Deal:
    """Documents dealt out to the parts, each going to one.

    Args:
        wanted: Tokens that each part needs.
    """

    def __init__(self, wanted: dict[str, int]) -> None:
        self.wanted = wanted
        self.tokens: dict[str, list[int]] = {part: [] for part in wanted}
        self._dealt: list[list[int]] = []

    @property
    def documents(self) -> int:
        """How many documents were dealt out."""
        return len(self._dealt)

    @property
    def full(self) -> bool:
        """Whether each part has its tokens."""
        return all(len(self.tokens[part]) >= size for part, size in self.wanted.items())

    def shortened(self, config: DataConfig, length: int) -> Deal:
        """Returns the same documents dealt out to parts that want less, as much as fits.

        Args:
            config: What was wanted.
            length: Tokens of the text in each window.
        """
        size = sum(map(len, self._dealt))
        share = size / sum(self.wanted.values())
        while True:
            smaller = config.shortened(share)
            deal = Deal({part: smaller.windows(part) * length for part in PARTS})
            rows = ((number, torch.tensor(tokens)) for number, tokens in enumerate(self._dealt))
            deal.fill_in_turn(rows, None)
            least = smaller == config.shortened(0)
            if deal.full:
                logger.warning(
                    "the text has %s tokens instead of the %s of DataConfig's defaults: %s are "
                    "used. Scores and figures are less certain; give more text of the kind that "
                    "the model will see",
                    f"{size:,}",
                    f"{sum(self.wanted.values()):,}",
                    ", ".join(f"{deal.wanted[part]:,} to {_USES[part]}" for part in PARTS),
                )
            if deal.full or least:
                return deal
            share *= 0.9

    def fill_in_turn(self, rows: Iterator[tuple[int, Any]], tokenizer: Any) -> None:
        """Fills one part after the other."""
        for part in ("validation", "score", "fit"):
            while len(self.tokens[part]) < self.wanted[part] and self._add(part, rows, tokenizer):
                pass

    def fill_evenly(self, rows: Iterator[tuple[int, Any]], tokenizer: Any) -> None:
        """Fills all parts at the same rate, so that each has rows of all that is read."""
        while True:
            shares = {part: len(self.tokens[part]) / self.wanted[part] for part in PARTS}
            part = min(shares, key=lambda part: shares[part])
            if shares[part] >= 1 or not self._add(part, rows, tokenizer):
                return

    def further(
        self, rows: Iterator[tuple[int, Any]], tokenizer: Any, config: DataConfig, length: int
    ) -> list[int]:
        """Returns tokens of further windows for healing, as many as wanted and as there are."""
        wanted = (config.healing_windows - config.windows("fit")) * length
        if not self.full or not wanted:
            return []
        end = self.wanted["fit"] + wanted
        while len(self.tokens["fit"]) < end and self._add("fit", rows, tokenizer):
            pass
        tokens = self.tokens["fit"][self.wanted["fit"] : end]
        return tokens[: len(tokens) // length * length]

    def _add(self, part: str, rows: Iterator[tuple[int, Any]], tokenizer: Any) -> bool:
        """Gives one document to a part; returns whether there was one."""
        for count, (number, row) in enumerate(rows, 1):
            tokens = row_tokens(row, tokenizer, number=number)
            if tokens:
                self.tokens[part].extend(tokens)
                self._dealt.append(tokens)
                return True
            if count == EMPTY_ROWS:
                raise DataError(f"{EMPTY_ROWS} rows in a row hold no text; the last is {number}")
        return False

    def require_full(self) -> None:
        """Raises DataError if a part has too few tokens."""
        short = {part: len(self.tokens[part]) for part in PARTS}
        short = {part: size for part, size in short.items() if size < self.wanted[part]}
        if not self.documents:
            raise DataError(_EMPTY)
        if short:
            have = sum(len(tokens) for tokens in self.tokens.values())
            lacking = ", ".join(
                f"{part} has {n} of {self.wanted[part]}" for part, n in short.items()
            )
            raise DataError(
                f"the text is too short: {self.documents} document(s), {have} tokens used, and "
                f"{lacking}; give about {sum(self.wanted.values())} tokens in at least three "
                "documents (blank lines separate documents in a string), or lower "
                "fit_tokens, score_tokens and validation_tokens"
            )


def row_tokens(row: Any, tokenizer: Any, **how: Any) -> list[int]:
    """Returns the tokens of a row, with the end-of-text token; none if it holds no text.

    Args:
        row: What `row_text` accepts, or a vector of tokens, which is taken as it is.
        tokenizer: A Hugging Face tokenizer.
        **how: `thinking`, `number` and `system_prompts` of `row_text`.

    Raises:
        DataError: The row is unusable.
    """
    if isinstance(row, torch.Tensor):
        return [int(token) for token in row]
    text = row_text(row, tokenizer, **how)
    if not text:
        return []
    tokens = rendered_tokens(tokenizer, text)
    end = tokenizer.eos_token_id
    return tokens if end is None else [*tokens, end]


def refuse_foreign(windows: torch.Tensor, vocab: int | None) -> None:
    """Raises DataError if a token is none of the vocabulary."""
    if vocab is not None and not bool(((windows >= 0) & (windows < vocab)).all()):
        bad = windows[(windows < 0) | (windows >= vocab)][0]
        raise DataError(
            f"the data holds token {bad}, which is outside the models' vocabulary of {vocab}; "
            "does the tokenizer belong to them?"
        )


def leading_token(tokenizer: Any) -> int | None:
    """Returns the token that a tokenizer puts before every text, None if it does not.

    A model that always saw it in training, such as Gemma, predicts poorly without it.
    """
    bos: int | None = tokenizer.bos_token_id
    return bos if bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos] else None


def cut_windows(tokens: list[int], length: int, lead: int | None) -> torch.Tensor:
    """Returns tokens as windows of `length`, each after the leading token if there is one."""
    cut = torch.tensor(tokens, dtype=torch.long).view(-1, length)
    return cut if lead is None else nn.functional.pad(cut, (1, 0), value=lead)
