"""ThinkingBudget: ends the thought of an answer after a number of tokens, whatever the model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor

from puzzle.errors import DataError
from puzzle.storage.plain_values import count_of
from puzzle.text.template_rendering import rendered_tokens
from puzzle.text.thoughts import CLOSE, OPEN


class ThinkingBudget(LogitsProcessor):
    """Forces the end of a thought once it has a number of tokens; for `generate`.

    Tags are read in the text, not among the tokens, so that they may be special tokens or any run
    of plain ones. A thought that the prompt opened is ended, too.

    Args:
        tokenizer: The model's tokenizer.
        tokens: The most tokens that stand between the tag that opens a thought and what is forced;
            0 ends a thought at once.
        end: What is written where the thought has more, such as "\\nTime is up.\\n</think>". It
            ends with the tag that closes a thought.

    Raises:
        DataError: The number is negative, or the end does not close the thought.

    Example:
        >>> from transformers import LogitsProcessorList
        >>> budget = LogitsProcessorList([ThinkingBudget(tokenizer, 512)])  # doctest: +SKIP
        >>> model.generate(**inputs, logits_processor=budget)  # doctest: +SKIP
    """

    def __init__(self, tokenizer: Any, tokens: int, *, end: str = CLOSE) -> None:
        count_of("tokens", tokens, least=0)
        self.tokenizer, self.tokens = tokenizer, tokens
        self.end = rendered_tokens(tokenizer, end)
        self._texts: dict[int, str] = {}
        if not (end.endswith(CLOSE) and CLOSE in "".join(map(self._text, self.end))):
            raise DataError(
                f"end={end!r} does not end with {CLOSE!r}, or the tokenizer cannot write it"
            )

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns the scores of the next tokens, of which one is left where the end is forced.

        Args:
            input_ids: Prompts and what was generated after them, (B, L).
            scores: Logits of the next tokens, (B, vocabulary).
        """
        forced = [self.next_forced(row) for row in input_ids.tolist()]
        if all(token is None for token in forced):
            return scores
        limited = scores.clone()
        for row, token in enumerate(forced):
            if token is not None:
                limited[row] = -torch.inf
                limited[row, token] = 0
        return limited

    def next_forced(self, ids: list[int]) -> int | None:
        """Returns the token that has to come after some others, None if any may.

        Args:
            ids: Tokens of the prompt and of what was generated after it.
        """
        # From behind: whatever came before the last tag is over. Only as much of the text after a
        # token is kept as can belong to a tag that starts in it.
        text = ""
        for start in range(len(ids) - 1, -1, -1):
            own = self._text(ids[start])
            text = (own + text)[: len(own) + len(CLOSE)]
            if CLOSE in text:
                return None
            if OPEN in text:
                place = self._after(ids[start:], text.index(OPEN) + len(OPEN)) - self.tokens
                return self.end[place] if 0 <= place < len(self.end) else None
        return None

    def _after(self, ids: list[int], length: int) -> int:
        """Returns how many tokens start after so many characters."""
        for number, token in enumerate(ids):
            if length <= 0:
                return len(ids) - number
            length -= len(self._text(token))
        return 0

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self.tokenizer.decode([token], skip_special_tokens=False)
        return self._texts[token]
