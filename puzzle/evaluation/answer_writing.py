"""Answers as a model writes them after prompts: thought, answer, length, and whether they ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from puzzle.errors import SettingError
from puzzle.models.thinking_budget import ThinkingBudget
from puzzle.progress.bars import counted
from puzzle.storage.json_values import as_number
from puzzle.storage.plain_values import count_of
from puzzle.text.template_rendering import rendered_tokens
from puzzle.text.thoughts import CLOSE, OPEN, check_system_prompts, split_thought


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSettings:
    """How answers are generated.

    Args:
        budget: The most tokens of a thought; None for no limit of its own.
        max_tokens: The most tokens of thought and answer.
        batch: Answers that are generated together.
        system_prompts: The system prompt of each mode, for a model whose switch that is.
        samples: Answers to each question.
        temperature: Of the distribution that tokens are drawn from; 0 takes the likeliest.
        seed: Of what is drawn.

    Raises:
        DataError: A number is not allowed, several answers would be the same, or a mode has no
            system prompt.
    """

    budget: int | None = None
    max_tokens: int = 1024
    batch: int = 8
    system_prompts: Mapping[str, str] | None = None
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_system_prompts(self.system_prompts)
        count_of("max_tokens", self.max_tokens)
        count_of("batch", self.batch)
        if self.budget is not None:
            count_of("budget", self.budget, least=0)
        if not 0 <= as_number(self.temperature, "temperature") < math.inf:
            raise SettingError(f"temperature={self.temperature!r}; allowed: 0 or more")
        if count_of("samples", self.samples) > 1 and self.temperature == 0:
            raise SettingError(
                f"samples={self.samples} with temperature=0 are the same answer so many times; "
                "give a temperature above 0, such as 0.6"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a model wrote after a prompt.

    Args:
        thought: Its thought, empty if there is none.
        answer: What follows it, up to a text that stops answers; None where the thought never ends.
        tokens: Tokens that were generated, without the one that ends a text.
        ended: Whether it came to an end of its own, or to a text that stops answers.
    """

    thought: str
    answer: str | None
    tokens: int
    ended: bool

    @property
    def finished(self) -> bool:
        """Whether thought and answer came to their end."""
        return self.ended and self.answer is not None


@torch.no_grad()
def write_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    settings: AnswerSettings,
    *,
    label: str,
    stops: Sequence[str] = (),
) -> list[Written]:
    """Returns what a model writes after prompts, some at a time.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompts: Rendered prompts.
        settings: How answers are generated.
        label: What the progress bar says.
        stops: Texts at which an answer stops; in a thought they do not count.
    """
    limits = LogitsProcessorList()
    if settings.budget is not None:
        limits.append(ThinkingBudget(tokenizer, settings.budget))
    stops = tuple(filter(None, stops))
    found: list[Written] = []
    starts = counted(range(0, len(prompts), settings.batch), label, "batch")
    # The same draws each time, and the caller's generator stays where it is.
    with torch.random.fork_rng(devices=[] if model.device.type == "cpu" else None):
        torch.manual_seed(settings.seed)
        for start in starts:
            part = prompts[start : start + settings.batch]
            found += _batch(model, tokenizer, part, limits, settings, stops)
    return found


def _batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    limits: LogitsProcessorList,
    settings: AnswerSettings,
    stops: tuple[str, ...],
) -> list[Written]:
    rows = [rendered_tokens(tokenizer, prompt) for prompt in prompts]
    opened = [prompt.rstrip().endswith(OPEN) for prompt in prompts]
    length = max(map(len, rows))
    filled = torch.tensor([[0] * (length - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    ends = token_ends(model, tokenizer)
    stopping = AnswerStops(tokenizer, stops, start=length, opened=opened)
    out = model.generate(
        filled,
        attention_mask=mask.to(model.device),
        max_new_tokens=settings.max_tokens,
        do_sample=settings.temperature > 0,
        temperature=settings.temperature or None,
        top_p=None,
        top_k=None,
        eos_token_id=sorted(ends) or None,
        pad_token_id=min(ends, default=0),
        logits_processor=limits,
        stopping_criteria=StoppingCriteriaList([stopping] if stops else []),
    )
    found = []
    for row, before, stopped in zip(
        out[:, length:].tolist(), opened, stopping.lengths, strict=True
    ):
        end = next((n for n, token in enumerate(row) if token in ends), None)
        place = min((n for n in (end, stopped) if n is not None), default=None)
        text = tokenizer.decode(row[:place], skip_special_tokens=False)
        thought, answer = split_thought((OPEN if before else "") + text)
        found.append(
            Written(
                thought=thought,
                answer=None if answer is None else _until(answer, stops),
                tokens=len(row[:place]),
                ended=place is not None,
            )
        )
    return found


class AnswerStops(StoppingCriteria):
    """Ends a row once a text that stops answers is in its answer; in a thought it does not count.

    Args:
        tokenizer: The model's tokenizer.
        stops: Such texts.
        start: Tokens of the prompts.
        opened: Whether the prompt opened a thought, for each row.

    Attributes:
        lengths: Tokens after which each row was ended, None of those that were not.
    """

    def __init__(
        self, tokenizer: Any, stops: tuple[str, ...], *, start: int, opened: Sequence[bool]
    ) -> None:
        self.tokenizer, self.stops, self.start = tokenizer, stops, start
        self.lengths: list[int | None] = [None] * len(opened)
        # Where the answer of each row starts, as far as is known.
        self._answers: list[int | None] = [None if thinks else 0 for thinks in opened]

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """Returns which rows are over.

        Args:
            input_ids: Prompts and what was generated after them, (B, L).
            scores: Not read.
            kwargs: Not read.
        """
        for number, row in enumerate(input_ids[:, self.start :].tolist()):
            if self.lengths[number] is None and self._over(number, row):
                self.lengths[number] = len(row)
        over = [length is not None for length in self.lengths]
        return torch.tensor(over, device=input_ids.device)

    def _over(self, number: int, row: list[int]) -> bool:
        start = self._answers[number]
        if start is None:
            # A tag has at most as many tokens as characters.
            if CLOSE in self._text(row[-len(CLOSE) :]):
                self._answers[number] = len(row)
            return False
        text = self._text(row[start:]).lstrip()
        if text.startswith(OPEN):
            self._answers[number] = None
            return False
        return any(stop in text for stop in self.stops)

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False))


def _until(answer: str, stops: Sequence[str]) -> str:
    """Returns an answer up to the first of some texts."""
    for stop in stops:
        answer = answer.partition(stop)[0]
    return answer


def token_ends(model: Any, tokenizer: Any) -> set[int]:
    """Returns the tokens that end what a model writes."""
    given = getattr(model.generation_config, "eos_token_id", None)
    listed = given if isinstance(given, list) else [given]
    return {int(end) for end in (*listed, tokenizer.eos_token_id) if end is not None}
