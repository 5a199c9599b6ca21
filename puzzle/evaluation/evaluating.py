"""evaluate(): compares a child with its parent, on text and in tasks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from puzzle.errors import DataError, ParentError, SettingError
from puzzle.evaluation.answer_writing import AnswerSettings
from puzzle.evaluation.answers import Answers, answer_rows, modes_of
from puzzle.evaluation.metrics_on_text import MeanEstimate, flat, ratio, text_metrics
from puzzle.evaluation.task_answers import GivenTasks
from puzzle.evaluation.tasks import TaskScore, TaskSettings, run_tasks
from puzzle.hardware.format_speed import computing_format
from puzzle.hardware.threads import limit_threads
from puzzle.hardware.torch_state import own_torch_state
from puzzle.models.given_child import given_child
from puzzle.models.parent import Parent
from puzzle.models.pretrained import load_model, load_tokenizer
from puzzle.models.trainable import filled_model, from_parent
from puzzle.models.unsuitable import refuse_unsuitable_model
from puzzle.models.watched_files import unchanged_while_read
from puzzle.plotting.html_table import html_table
from puzzle.storage.paths import user_path
from puzzle.storage.plain_values import count_of
from puzzle.text.chat import render_prompt
from puzzle.text.given_text import check_source
from puzzle.text.packing import PackedStream
from puzzle.text.positions import require_positions
from puzzle.text.windows import refuse_foreign

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Evaluation:
    """Measurements of "child" and, if there is one, of "parent".

    Args:
        text: Metrics on text, as `text_metrics` gives them; empty without text.
        tasks: Scores by model and task; empty without tasks.
        answers: Answers in free text by model, and by task and mode; empty without thinking.
    """

    text: Mapping[str, Mapping[str, MeanEstimate]]
    tasks: Mapping[str, Mapping[str, TaskScore]]
    answers: Mapping[str, Mapping[tuple[str, str], Answers]] = field(default_factory=dict)

    def kept(self) -> dict[str, MeanEstimate]:
        """Returns the child's score as a percentage of its parent's, by task.

        "mean" is the percentage of the mean score over the tasks, each counted once. Errors are
        those of paired questions; it is NaN where a parent scores nothing.
        """
        if "parent" not in self.tasks:
            return {}
        percents = {}
        for name, child in self.tasks["child"].items():
            percents[name] = _percent(child, self.tasks["parent"][name])
        pairs = [(self.tasks["child"][name], self.tasks["parent"][name]) for name in percents]
        if len(pairs) > 1:
            percents["mean"] = _mean_percent(pairs)
        return percents

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Returns the rows of the table: name, parent, child, percent kept."""
        rows = []
        for name in self.text.get("child", {}):
            parent = self.text.get("parent", {}).get(name)
            rows.append((name, str(parent or ""), str(self.text["child"][name]), ""))
        kept = self.kept()
        for name, child in self.tasks.get("child", {}).items():
            score = self.tasks.get("parent", {}).get(name)
            chance = "" if child.chance is None else f", chance {child.chance:.2f}"
            label = f"{name} ({child.metric}{chance})"
            percent = f"{kept[name]} %" if name in kept else ""
            rows.append((label, str(score.score if score else ""), str(child.score), percent))
        if "mean" in kept:
            rows.append(("mean of tasks", "", "", f"{kept['mean']} %"))
        return [*rows, *answer_rows(self.answers)]

    def table(self) -> str:
        """Returns parent and child side by side, with standard errors, as text."""
        rows = [("", "parent", "child", "kept"), *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            row[0].ljust(widths[0]) + "".join("  " + row[i].rjust(widths[i]) for i in range(1, 4))
            for row in rows
        ]
        return "\n".join(line.rstrip() for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "text": flat(self.text),
            "tasks": {
                who: {
                    name: {"metric": s.metric, **s.score.to_dict(), "chance": s.chance}
                    for name, s in scores.items()
                }
                for who, scores in self.tasks.items()
            },
            "percent_kept": {name: e.to_dict() for name, e in self.kept().items()},
            "answers": {
                who: [
                    {"task": task, "thinking": mode, **each.to_dict()}
                    for (task, mode), each in found.items()
                ]
                for who, found in self.answers.items()
            },
        }

    def __repr__(self) -> str:
        return f"Evaluation({len(self.rows())} rows)"

    def _repr_html_(self) -> str:
        return html_table(("", "parent", "child", "kept"), self.rows())


@own_torch_state()
def evaluate(
    model: Any,
    *,
    parent: Any = None,
    data: Any = None,
    tasks: Sequence[Any] = (),
    tokenizer: Any = None,
    windows: int = 32,
    length: int = 512,
    top_k: int = 5,
    limit: int | None = None,
    shots: int | None = None,
    batch: int = 8,
    chat: bool = False,
    thinking: str | None = None,
    budget: int | None = None,
    max_tokens: int = 1024,
    samples: int = 1,
    temperature: float = 0.0,
    system_prompts: Mapping[str, str] | None = None,
) -> Evaluation:
    """Measures a model, and its parent if there is one, on text and in tasks.

    Args:
        model: A child or any other causal language model, its directory, or a `SearchResult`.
            What is read from a directory is computed in the number format it is stored in, or in
            float32 where the device is much faster in that.
        parent: Its parent in any of these forms, or an opened Parent.
        data: Held-out text of the kinds that `puzzle.distill` accepts, or token windows: gives
            perplexity and, with a parent, KL, next-token and top-k agreement.
        tasks: Names that lm-eval knows (their data is downloaded), "mmlu-dev" (which lm-eval
            includes), a `pathlib.Path` of questions or of lm-eval's YAML, or ChoiceTasks, such as
            `fetch_bigbench` gives. These need the extra `puzzle-nas[eval]`. With `thinking`,
            AnswerTasks, or a Path of JSON lines with `question` and `answer`; and tasks of lm-eval
            whose answers are generated are answered in each mode.
        tokenizer: Tokenizer; by default the one beside the parent, then the one beside the model.
        windows: Windows that are cut from text; with a warning, as many as a shorter text fills.
        length: Tokens per window.
        top_k: The k of top-k agreement.
        limit: Questions per task.
        shots: Solved examples before each question.
        batch: Questions that are evaluated together.
        chat: Whether questions are rendered by the chat template.
        thinking: Modes in which answers are generated: "both", "on" or "off".
        budget: The most tokens of a thought there.
        max_tokens: The most tokens of thought and answer.
        samples: Answers to each question there, of which the mean counts. More than one need a
            temperature.
        temperature: Of the distribution that their tokens are drawn from; 0 takes the likeliest.
        system_prompts: The system prompt of each mode there, for a model whose switch that is.

    Returns:
        Means with standard errors, and the percentages of the parent's scores that are kept.

    Raises:
        DataError: Text, a task or a setting is not valid; nothing has been computed by then.
        ParentError: A model cannot be opened, or was changed while it was read.

    Example:
        >>> import puzzle
        >>> result = puzzle.evaluate("run/child", parent="parent", data=text,
        ...                          tasks=["mmlu-dev"])  # doctest: +SKIP
        >>> print(result.table())  # doctest: +SKIP
    """
    if data is None and not tasks:
        raise SettingError("there is nothing to measure; give data=, tasks= or both")
    check_source(data)
    windows, length = count_of("windows", windows), count_of("length", length, least=2)
    top_k = count_of("top_k", top_k)
    settings = TaskSettings(limit=limit, shots=shots, batch=batch, chat=chat)
    generated = AnswerSettings(
        budget=budget,
        max_tokens=max_tokens,
        batch=batch,
        system_prompts=system_prompts,
        samples=samples,
        temperature=temperature,
    )
    if system_prompts is not None and thinking is None:
        raise SettingError("system_prompts are those of the modes of thinking; give thinking=")
    limit_threads()
    given = GivenTasks.of(tasks, thinking)
    models, tokenizers = {}, []
    for name, source in (("parent", parent), ("child", model)):
        if source is not None:
            models[name], own = opened_model(source)
            tokenizers.append(own)
    tokenizer = tokenizer or next((each for each in tokenizers if each is not None), None)
    if tokenizer is None and tasks:
        raise DataError("tasks need a tokenizer; pass one with tokenizer=")
    if thinking is not None:
        # Without a switch nothing is computed.
        render_prompt("", tokenizer, thinking=modes_of(thinking)[0], system_prompts=system_prompts)
    text = {}
    if data is not None:
        cut = _windows(data, tokenizer, windows, length, models["child"].config)
        text = text_metrics(models["child"], cut, parent=models.get("parent"), top_k=top_k)
    scores = {}
    if given.others:
        scores = {n: run_tasks(m, tokenizer, given.others, settings) for n, m in models.items()}
    answers = {
        name: given.answers(each, tokenizer, thinking, settings, generated)
        for name, each in models.items()
        if thinking is not None
    }
    return Evaluation(text=text, tasks=scores, answers=answers)


def opened_model(source: Any) -> tuple[Any, Any]:
    """Returns a model in evaluation mode and the tokenizer beside it."""
    source, given = given_child(source)
    if isinstance(source, Parent):
        return filled_model(from_parent(source)), source.tokenizer
    if isinstance(source, PreTrainedModel):
        return source.eval(), given
    if not isinstance(source, str | os.PathLike):
        refuse_unsuitable_model(source)
        raise ParentError(
            f"{type(source).__name__} is no model; give a directory, a hub id, a transformers "
            "model, or what puzzle.models.open_parent returns"
        )
    path = user_path(source)
    with unchanged_while_read(source):
        model = load_model(source)
        has = not path.is_dir() or (path / "tokenizer_config.json").is_file()
        tokenizer = load_tokenizer(source) if has else None
    if computing_format(model.dtype, model.device) == torch.float32:
        # Never to 16 bits: that would round the rotary frequencies as well.
        model = model.float()
    return model, tokenizer


def _windows(data: Any, tokenizer: Any, count: int, length: int, config: Any) -> torch.Tensor:
    tokens = isinstance(data, torch.Tensor) and data.dim() == 2
    require_positions(
        data.shape[1] if tokens else length, config, "windows", remedy="give a lower length="
    )
    if isinstance(data, torch.Tensor):
        refuse_foreign(data, config.vocab_size)
        return data
    stream = PackedStream(data, tokenizer, length=length, vocab=config.vocab_size, resumable=False)
    return stream.take_once(count)


def _percent(child: TaskScore, parent: TaskScore) -> MeanEstimate:
    if child.samples is not None and parent.samples is not None:
        share = ratio(child.samples, parent.samples)
        return MeanEstimate(100 * share.value, 100 * share.error)
    return _unpaired(child.score, parent.score)


def _unpaired(child: MeanEstimate, parent: MeanEstimate) -> MeanEstimate:
    if parent.value == 0:
        return MeanEstimate(float("nan"), float("nan"))
    value = child.value / parent.value
    error = (child.error**2 + (value * parent.error) ** 2) ** 0.5 / abs(parent.value)
    return MeanEstimate(100 * value, 100 * error)


def _mean_percent(pairs: list[tuple[TaskScore, TaskScore]]) -> MeanEstimate:
    """Returns 100 * sum of the child's scores / sum of the parent's, with independent errors."""
    total = sum(parent.score.value for _, parent in pairs)
    if total == 0:
        return MeanEstimate(float("nan"), float("nan"))
    value = sum(child.score.value for child, _ in pairs) / total
    squares = 0.0
    for child, parent in pairs:
        if child.samples is not None and parent.samples is not None:
            rest = child.samples - value * parent.samples
            squares += float(rest.var()) / len(rest) if len(rest) > 1 else float("nan")
        else:
            squares += child.score.error**2 + (value * parent.score.error) ** 2
    return MeanEstimate(100 * value, 100 * squares**0.5 / total)
