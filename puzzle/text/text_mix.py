"""TextMix: several texts in given shares, such as a parent's answers with and without thinking."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from puzzle.errors import DataError
from puzzle.text.data_config import PARTS, DataConfig
from puzzle.text.thoughts import MODES
from puzzle.text.windows import Windows, documents, windows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextMix:
    """Several texts that a search is made with, each with its share of the windows of every part.

    A mean over the tokens of such a part is the mean of the texts' own means, weighted by their
    shares, however long the answers in each are. So scores, and the objective that is their sum,
    are weighted by the shares; the child's quality is reported on each text as well.

    Args:
        texts: By name. `messages` in a text named "on" or "off" are rendered in that mode of
            thinking, and rows that are no example of it are left out.
        shares: How much each counts, such as the share of the requests; only ratios matter.

    Raises:
        DataError: There is no text, or one has no share above zero.

    Example:
        >>> mix = TextMix(texts={"on": "Long answers.", "off": "Short ones."},
        ...               shares={"on": 0.3, "off": 0.7})
        >>> mix.counts(10)
        {'on': 3, 'off': 7}
    """

    texts: Mapping[str, Any]
    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        good = all(
            isinstance(each, int | float) and 0 < each < math.inf for each in self.shares.values()
        )
        if not self.texts or set(self.texts) != set(self.shares) or not good:
            raise DataError(
                f"texts {sorted(self.texts)} and shares {dict(self.shares)}; give each text a "
                "share above zero"
            )

    def counts(self, total: int) -> dict[str, int]:
        """Returns how many of a number of windows each text has: at least one.

        Args:
            total: The windows.

        Raises:
            DataError: There are fewer windows than texts.
        """
        if total < len(self.texts):
            raise DataError(
                f"{total} windows for {len(self.texts)} texts; raise the tokens of DataConfig"
            )
        whole = math.fsum(self.shares.values())
        wanted = {name: total * share / whole for name, share in self.shares.items()}
        counts = {name: max(1, math.floor(size)) for name, size in wanted.items()}
        while sum(counts.values()) != total:
            step = 1 if sum(counts.values()) < total else -1
            movable = [name for name in counts if step > 0 or counts[name] > 1]
            name = max(movable, key=lambda each: step * (wanted[each] - counts[each]))
            counts[name] += step
        return counts

    def windows(self, tokenizer: Any, config: DataConfig, *, vocab: int | None = None) -> Windows:
        """Cuts the texts into windows, those of all texts in turn.

        Args:
            tokenizer: As for `puzzle.text.windows.windows`.
            config: Sizes of the parts of the whole mixture, and the seed.
            vocab: As for `puzzle.text.windows.windows`.

        Raises:
            DataError: A text is too short or unusable; it is named.
        """
        counts = {part: self.counts(config.windows(part)) for part in PARTS}
        cut: dict[str, Windows] = {}
        for name, text in self.texts.items():
            sizes = {part: counts[part][name] * config.window for part in PARTS}
            own = DataConfig(
                window=config.window,
                seed=config.seed,
                **{f"{part}_tokens": size for part, size in sizes.items()},
            )
            try:
                rows = documents(text, tokenizer, thinking=name) if name in MODES else text
                cut[name] = windows(rows, tokenizer, own, vocab=vocab)
            except DataError as error:
                raise DataError(f"text {name!r}: {error}") from error
        parts = {
            part: interleaved(
                [getattr(each, part)[: counts[part][name]] for name, each in cut.items()]
            )
            for part in PARTS
        }
        mixed = Windows(**parts)
        mixed.by_text.update({name: each.validation for name, each in cut.items()})
        return mixed


def interleaved(groups: list[torch.Tensor]) -> torch.Tensor:
    """Returns the rows of all groups, each spread evenly from the first to the last."""
    places = [
        ((row + 0.5) / len(group), number, row)
        for number, group in enumerate(groups)
        for row in range(len(group))
    ]
    return torch.stack([groups[number][row] for _, number, row in sorted(places)])
