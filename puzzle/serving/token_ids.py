"""TokenIds: the prompt and the text of a check, as the token ids of a child."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from puzzle.errors import ExportError, SettingError
from puzzle.models.pretrained import load_tokenizer
from puzzle.storage.json_files import interpreting, read_object
from puzzle.storage.json_values import as_count
from puzzle.storage.plain_values import count_of
from puzzle.text.template_rendering import rendered_tokens
from puzzle.text.thoughts import CLOSE, OPEN

# Tokens of text before the first whose successor is compared.
FIRST = 2


class TokenIds:
    """Prompt and text as token ids; random ones for a child without a tokenizer."""

    def __init__(self, directory: Path, prompt: str, text: str) -> None:
        self.ends = _end_tokens(directory)
        self.tokenizer: Any = None
        self.closing: list[int] = []
        if any(directory.glob("tokenizer*")):
            self.tokenizer = load_tokenizer(directory)
            self.prompt, self.text = (self.tokenizer(t)["input_ids"] for t in (prompt, text))
            if not self.prompt or len(self.text) < FIRST:
                raise SettingError(
                    f"prompt and text have {len(self.prompt)} and {len(self.text)} tokens; "
                    f"allowed: at least 1 and {FIRST}"
                )
        else:
            file = directory / "config.json"
            with interpreting(file, "a model's config", ExportError):
                config = read_object(file, "a model's config", error=ExportError)
                vocab = as_count(config["vocab_size"], "vocab_size", least=1)
            generator = torch.Generator().manual_seed(0)
            ids = torch.randint(vocab, (64,), generator=generator).tolist()
            self.prompt, self.text = ids[:8], ids

    def decoded(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, or their list if there is no tokenizer."""
        return self.tokenizer.decode(ids) if self.tokenizer is not None else str(list(ids))

    def budget(self, tokens: int | None, greedy: Sequence[int]) -> dict[str, Any] | None:
        """Returns what an engine is told of a thought.

        Engines that take token ids are given the first greedy token as its start, others the tag,
        which then ends the prompt.

        Args:
            tokens: The most that it may have; None for no limit.
            greedy: Text of the child that was not limited.

        Raises:
            ExportError: The number is negative, or there is no tokenizer.
        """
        if tokens is None:
            return None
        if self.tokenizer is None:
            raise ExportError(
                f"budget={tokens!r} needs a tokenizer beside the child, which writes {CLOSE!r}"
            )
        self.closing = rendered_tokens(self.tokenizer, CLOSE)
        tokens = count_of("budget", tokens, least=0, error=ExportError)
        opening = rendered_tokens(self.tokenizer, OPEN)
        return {
            "tokens": tokens,
            "start": list(greedy[:1]),
            "end": self.closing,
            "opening": opening,
            "tags": [OPEN, CLOSE],
        }

    def thought(self, limited: Sequence[int]) -> int | None:
        """Returns how many tokens stand between start and end of a thought, None without an end."""
        for place in range(1, len(limited)):
            if list(limited[place : place + len(self.closing)]) == self.closing:
                return place - 1
        return None

    def until_end(self, ids: Sequence[int]) -> list[int]:
        """Returns the ids before the first that ends a text, after which some engines continue."""
        return list(itertools.takewhile(lambda token: token not in self.ends, ids))


def _end_tokens(directory: Path) -> set[int]:
    file = directory / "generation_config.json"
    file = file if file.is_file() else directory / "config.json"
    with interpreting(file, "a model's config", ExportError):
        ends = read_object(file, "a model's config", error=ExportError).get("eos_token_id")
        listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
        return {as_count(end, "eos_token_id") for end in listed}
