"""DataConfig: how much text a search uses, and how it is cut."""

from __future__ import annotations

from dataclasses import dataclass, replace

from puzzle.storage.plain_values import count_of, make_plain

PARTS = ("fit", "score", "validation")
MIN_WINDOWS = {"fit": 8, "score": 2, "validation": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """How much text is used and how it is cut.

    Args:
        window: Tokens per window; every window is full, so no padding enters any statistic.
        fit_tokens: Tokens for the closed-form fits (a quarter of them picks the ridge).
        score_tokens: Tokens for the replace-one scores.
        validation_tokens: Tokens for the reported figures.
        healing_tokens: Tokens that a chosen layout is healed on: those of the fits and further
            ones, as far as the text goes. By default a search takes as many as its effort says.
        seed: Order of the documents; by default the seed of the search, which is 0.
    """

    window: int = 256
    fit_tokens: int = 16384
    score_tokens: int = 1024
    validation_tokens: int = 4096
    healing_tokens: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("window", "fit_tokens", "score_tokens", "validation_tokens"):
            count_of(name, getattr(self, name), least=2)
        if self.healing_tokens is not None:
            count_of("healing_tokens", self.healing_tokens, least=2)
        if self.seed is not None:
            count_of("seed", self.seed, least=0)

    def windows(self, part: str) -> int:
        """Returns the number of windows wanted for one of `PARTS`."""
        return max(MIN_WINDOWS[part], getattr(self, f"{part}_tokens") // self.window)

    @property
    def healing_windows(self) -> int:
        """Number of windows wanted for healing, at least those of the fits."""
        return max(self.windows("fit"), (self.healing_tokens or 0) // self.window)

    def shortened(self, share: float) -> DataConfig:
        """Returns the same with a share of the tokens; no part has fewer windows than it needs."""
        sizes = {f"{part}_tokens": int(share * self.windows(part)) * self.window for part in PARTS}
        return replace(self, **{name: max(size, 2) for name, size in sizes.items()})
