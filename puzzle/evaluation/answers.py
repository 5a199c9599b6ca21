"""Answers in free text, with and without thinking: how many are right, and how long they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from puzzle.errors import DataError
from puzzle.evaluation.answer_writing import AnswerSettings, Written, write_answers
from puzzle.evaluation.consistency import consistency
from puzzle.evaluation.metrics_on_text import MeanEstimate, estimate, ratio
from puzzle.evaluation.tasks import is_yaml
from puzzle.storage.json_files import read_json_lines
from puzzle.storage.json_values import as_text
from puzzle.text.chat import render_prompt
from puzzle.text.thoughts import MODES

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
        right: 1 where the answer is right, or the score of lm-eval. One whose thought does not
            end has 0.
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
    """Returns the tasks of free text with answers given, and the others.

    Raises:
        DataError: Tasks and the mode of thinking do not go together.
    """
    if thinking is not None:
        modes_of(thinking)
        tasks = [read_answer_task(task) if _has_answers(task) else task for task in tasks]
    own = [task for task in tasks if isinstance(task, AnswerTask)]
    if own and thinking is None:
        raise DataError(
            f"{len(own)} AnswerTask(s) without a mode; give thinking='both', 'on' or 'off'"
        )
    if len({task.name for task in own}) < len(own):
        raise DataError(f"two tasks have the same name: {sorted(task.name for task in own)}")
    return own, [task for task in tasks if not isinstance(task, AnswerTask)]


def _has_answers(task: Any) -> bool:
    return isinstance(task, Path) and not is_yaml(task.name)


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
    label = f"{task.name}, {mode}"
    written = write_answers(model, tokenizer, prompts, settings, label=label)
    scores = [
        0.0 if each.answer is None else float(task.scorer(each.answer, right) == 1)
        for each, right in zip(written, rights, strict=True)
    ]
    return judged(written, scores, samples=settings.samples)


def judged(written: Sequence[Written], scores: Sequence[float], *, samples: int) -> Answers:
    """Returns answers with their scores.

    Args:
        written: What was written, the answers to each question beside each other.
        scores: Their scores; that of an answer whose thought does not end counts as 0.
        samples: Answers to each question.
    """
    rows = [
        (
            0.0 if each.answer is None else score,
            float(each.tokens),
            float(each.finished),
            float(bool(each.thought)),
            consistency(each.thought, each.answer) if each.thought and each.answer else math.nan,
        )
        for each, score in zip(written, scores, strict=True)
    ]
    right, tokens, finished, thought, consistent = torch.tensor(rows, dtype=torch.float64).T
    return Answers(
        right=right,
        tokens=tokens,
        finished=finished,
        thought=thought,
        consistent=consistent,
        samples=samples,
    )


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
