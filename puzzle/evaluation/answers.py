"""Answers in free text, with and without thinking: how many are right, and how long they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessorList

from puzzle.errors import DataError, SettingError
from puzzle.evaluation.consistency import consistency
from puzzle.evaluation.metrics_on_text import MeanEstimate, estimate, ratio
from puzzle.models.thinking_budget import ThinkingBudget
from puzzle.progress.bars import counted
from puzzle.storage.json_files import read_json_lines
from puzzle.storage.json_values import as_number, as_text
from puzzle.storage.plain_values import count_of
from puzzle.text.chat import render_prompt
from puzzle.text.template_rendering import rendered_tokens
from puzzle.text.thoughts import MODES, OPEN, check_system_prompts, split_thought

Scorer = Callable[[str, Any], float]


def same_text(answer: str, right: Any) -> float:
    """Returns 1 for an answer that is the right one but for space around it, else 0."""
    return float(answer.strip() == str(right).strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTask:
    """Questions that are answered in free text.

    Args:
        name: Its name.
        questions: What the user says, one for each answer.
        answers: The right answers, or whatever the scorer compares with.
        scorer: Given an answer, without its thought, and the right one; an answer is right if it
            returns exactly 1.

    Raises:
        DataError: There are no questions, or not as many answers.

    Example:
        >>> AnswerTask(name="sums", questions=["1+1="], answers=["2"]).name
        'sums'
    """

    name: str
    questions: Sequence[str]
    answers: Sequence[Any]
    scorer: Scorer = same_text

    def __post_init__(self) -> None:
        if not self.questions or len(self.questions) != len(self.answers):
            raise DataError(
                f"task {self.name!r} has {len(self.questions)} questions and {len(self.answers)} "
                "answers; give one for each, at least one"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What a model answered to the questions of a task in one mode, one value for each answer.

    Args:
        right: 1 where the answer is right. One whose thought does not end is not.
        tokens: Tokens that were generated, without the one that ends a text.
        finished: 1 where thought and answer came to their end.
        thought: 1 where there is a thought that is not empty.
        consistent: How far the answer follows from its thought, as `consistency` says; NaN where
            there are not both.
        samples: Answers to each question, which stand beside each other.
    """

    right: torch.Tensor
    tokens: torch.Tensor
    finished: torch.Tensor
    thought: torch.Tensor
    consistent: torch.Tensor
    samples: int = 1

    @property
    def rates(self) -> torch.Tensor:
        """The share of right answers to each question."""
        return self.right.reshape(-1, self.samples).mean(1)

    @property
    def accuracy(self) -> MeanEstimate:
        """The share of right answers; its error is that of the choice of questions."""
        return estimate(self.rates)

    @property
    def consistency(self) -> float:
        """The mean consistency of the answers that have a thought; NaN if none has."""
        return float(self.consistent.nanmean())

    def quantile(self, share: float) -> float:
        """Returns the tokens per answer that a share of the answers do not exceed."""
        return float(self.tokens.quantile(share))

    def inflation(self, parent: Answers) -> MeanEstimate:
        """Returns this model's tokens over those of its parent, on questions both answer right.

        Of several answers to a question, the right ones count, by their mean.
        """
        both = (self.rates * parent.rates) > 0
        if not bool(both.any()):
            return MeanEstimate(float("nan"), float("nan"))
        return ratio(self._tokens_if_right()[both], parent._tokens_if_right()[both])

    def _tokens_if_right(self) -> torch.Tensor:
        sums = (self.tokens * self.right).reshape(-1, self.samples).sum(1)
        return sums / self.right.reshape(-1, self.samples).sum(1)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "questions": len(self.rates),
            "samples": self.samples,
            "accuracy": self.accuracy.to_dict(),
            "tokens_p50": self.quantile(0.5),
            "tokens_p95": self.quantile(0.95),
            "finished": float(self.finished.mean()),
            "thought": float(self.thought.mean()),
            "consistency": None if math.isnan(self.consistency) else self.consistency,
        }


def read_answer_task(file: Path) -> AnswerTask:
    """Returns the questions of a file of JSON lines with `question` and `answer`.

    Raises:
        DataError: It cannot be read, or a line is something else.
    """
    what = "JSON lines with 'question' and 'answer'"
    pairs = read_json_lines(file, what, _question_and_answer)
    return AnswerTask(
        name=file.stem,
        questions=[question for question, _ in pairs],
        answers=[answer for _, answer in pairs],
    )


def _question_and_answer(row: Any) -> tuple[str, str]:
    return as_text(row["question"], "question"), as_text(row["answer"], "answer")


def modes_of(thinking: str) -> tuple[str, ...]:
    """Returns the modes that "both", "on" or "off" stands for.

    Raises:
        DataError: It is none of these.
    """
    if thinking not in ("both", *MODES):
        raise DataError(f"thinking={thinking!r}; allowed: 'both', 'on', 'off'")
    return MODES if thinking == "both" else (thinking,)


def split_tasks(tasks: Sequence[Any], thinking: str | None) -> tuple[list[AnswerTask], list[Any]]:
    """Returns the tasks that are answered in free text, and the others.

    Raises:
        DataError: Tasks and the mode of thinking do not go together.
    """
    if thinking is not None:
        modes_of(thinking)
        tasks = [read_answer_task(task) if isinstance(task, Path) else task for task in tasks]
    own = [task for task in tasks if isinstance(task, AnswerTask)]
    if bool(own) != (thinking is not None):
        raise DataError(
            f"thinking={thinking!r} with {len(own)} AnswerTask(s); give both, as 'both', 'on' or "
            "'off' and puzzle.evaluation.AnswerTask, or neither"
        )
    if len({task.name for task in own}) < len(own):
        raise DataError(f"two tasks have the same name: {sorted(task.name for task in own)}")
    return own, [task for task in tasks if not isinstance(task, AnswerTask)]


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


@torch.no_grad()
def answer_questions(
    model: Any, tokenizer: Any, task: AnswerTask, mode: str, settings: AnswerSettings
) -> Answers:
    """Returns what a model answers in one mode.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, whose template has a switch unless the settings have one.
        task: The questions.
        mode: "on" or "off".
        settings: How answers are generated.

    Raises:
        DataError: The template has no switch.
    """
    system = settings.system_prompts
    prompts = [
        render_prompt(question, tokenizer, thinking=mode, system_prompts=system)
        for question in task.questions
        for _ in range(settings.samples)
    ]
    rights = [right for right in task.answers for _ in range(settings.samples)]
    opened = [prompt.rstrip().endswith(OPEN) for prompt in prompts]
    limits = LogitsProcessorList()
    if settings.budget is not None:
        limits.append(ThinkingBudget(tokenizer, settings.budget))
    rows: list[tuple[float, ...]] = []
    starts = counted(range(0, len(prompts), settings.batch), f"{task.name}, {mode}", "batch")
    # The same draws each time, and the caller's generator stays where it is.
    with torch.random.fork_rng(devices=[] if model.device.type == "cpu" else None):
        torch.manual_seed(0)
        for start in starts:
            part = slice(start, start + settings.batch)
            written = _written(model, tokenizer, prompts[part], limits, settings)
            for (ids, ended), before, right in zip(
                written, opened[part], rights[part], strict=True
            ):
                text = (OPEN if before else "") + tokenizer.decode(ids, skip_special_tokens=False)
                rows.append((*_judged(text, right, task, ended=ended), len(ids)))
    columns = torch.tensor(rows, dtype=torch.float64).T
    return Answers(
        right=columns[0],
        finished=columns[1],
        thought=columns[2],
        consistent=columns[3],
        tokens=columns[4],
        samples=settings.samples,
    )


def _judged(text: str, right: Any, task: AnswerTask, *, ended: bool) -> tuple[float, ...]:
    """Returns whether a text is right, finished, and has a thought, and how consistent it is."""
    thought, answer = split_thought(text)
    score = 0.0 if answer is None else task.scorer(answer, right)
    follows = consistency(thought, answer) if thought and answer else math.nan
    return float(score == 1), float(ended and answer is not None), float(bool(thought)), follows


def _written(
    model: Any, tokenizer: Any, prompts: Sequence[str], limits: Any, settings: AnswerSettings
) -> list[tuple[list[int], bool]]:
    """Returns the tokens that follow each prompt, and whether they came to an end."""
    rows = [rendered_tokens(tokenizer, prompt) for prompt in prompts]
    length = max(map(len, rows))
    filled = torch.tensor([[0] * (length - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    ends = token_ends(model, tokenizer)
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
    )
    found = []
    for row in out[:, length:].tolist():
        place = next((n for n, token in enumerate(row) if token in ends), None)
        found.append((row[:place], place is not None))
    return found


def token_ends(model: Any, tokenizer: Any) -> set[int]:
    """Returns the tokens that end what a model writes."""
    given = getattr(model.generation_config, "eos_token_id", None)
    listed = given if isinstance(given, list) else [given]
    return {int(end) for end in (*listed, tokenizer.eos_token_id) if end is not None}


def answer_rows(
    answers: Mapping[str, Mapping[tuple[str, str], Answers]],
) -> list[tuple[str, str, str, str]]:
    """Returns rows of a table: name, parent, child, and the child in percent of the parent.

    Args:
        answers: By model ("parent", "child"), and by task and mode.
    """
    rows = []
    for (task, mode), child in answers.get("child", {}).items():
        parent = answers.get("parent", {}).get((task, mode))
        several = f", mean of {child.samples}" if child.samples > 1 else ""
        label = f"{task}, thinking {mode}{several}"
        kept = ""
        if parent is not None:
            share = ratio(child.rates, parent.rates)
            kept = f"{MeanEstimate(100 * share.value, 100 * share.error)} %"
        rows.append((label, str(parent.accuracy) if parent else "", str(child.accuracy), kept))
        for name, measure in _MEASURES.items():
            before = measure(parent) if parent else ""
            rows.append((f"  {name}", before, measure(child), ""))
        if parent is not None:
            rows.append(("  tokens, both right", "", "", f"{child.inflation(parent)} x"))
    return rows


_MEASURES: Mapping[str, Callable[[Answers], str]] = {
    "tokens per answer, p50": lambda answers: f"{answers.quantile(0.5):.0f}",
    "tokens per answer, p95": lambda answers: f"{answers.quantile(0.95):.0f}",
    "finished": lambda answers: f"{float(answers.finished.mean()):.1%}",
    "with a thought": lambda answers: f"{float(answers.thought.mean()):.1%}",
    "consistent": lambda answers: (
        "" if math.isnan(answers.consistency) else f"{answers.consistency:.1%}"
    ),
}
