"""What stages of post-training are told of samples and rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from puzzle.errors import DataError, SettingError
from puzzle.storage.json_values import as_number
from puzzle.storage.plain_values import count_of
from puzzle.text.thoughts import check_system_prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """How answers are sampled.

    Args:
        samples: Answers to each prompt in each mode.
        temperature: Of the distribution that tokens are drawn from; 0 takes the likeliest.
        top_p: The share of it that they are drawn from.
        max_tokens: The most tokens of thought and answer.
        budget: The most tokens of a thought, of a model in memory; None for no limit of its own.
        batch: Prompts that are answered together.
        seed: Seed of the draws.

    Raises:
        SettingError: A number is not allowed.
    """

    samples: int = 4
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 1024
    budget: int | None = None
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "max_tokens", "batch"):
            count_of(name, getattr(self, name))
        count_of("seed", self.seed, least=0)
        if self.budget is not None:
            count_of("budget", self.budget, least=0)
        for name, most in (("temperature", float("inf")), ("top_p", 1.0)):
            value = as_number(getattr(self, name), name)
            if not 0 <= value <= most or (name == "top_p" and value == 0):
                raise SettingError(f"{name}={value!r}; allowed: numbers up to {most}, not below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings:
    """How exchanges become the rows of supervised fine-tuning.

    Args:
        cut_share: Of the answers with a thought, the share whose thought is cut at a random token,
            so that the model learns to answer where a budget ends its thought. There the loss is
            on the answer alone: nothing teaches to end a thought early.
        curriculum: Short answers first; each mode by its own lengths, so that both are trained
            from the beginning to the end.
        balanced: As many answers of one mode as of the other; the surplus is left out.
        max_length: The most tokens of a row; longer ones are left out, as an answer without its
            end teaches not to end. None for the model's positions.
        system_prompts: The system prompt of each mode, for a model whose switch that is.
        seed: Seed of the cuts, and of what is left out.

    Raises:
        DataError: The share is not between 0 and 1, or a mode has no system prompt.
    """

    cut_share: float = 0.05
    curriculum: bool = True
    balanced: bool = True
    max_length: int | None = None
    system_prompts: Mapping[str, str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.cut_share <= 1:
            raise DataError(f"cut_share={self.cut_share!r}; allowed: 0 to 1")
        check_system_prompts(self.system_prompts)
