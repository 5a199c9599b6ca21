"""Tasks of lm-eval whose answers are generated, in each mode of thinking."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, groupby
from typing import Any

from puzzle.errors import DataError
from puzzle.evaluation.answer_writing import AnswerSettings, Written, write_answers
from puzzle.evaluation.answers import (
    Answers,
    AnswerTask,
    answer_questions,
    judged,
    modes_of,
    split_tasks,
)
from puzzle.evaluation.tasks import TaskSettings, evaluated, loaded_tasks, open_tasks, values_of
from puzzle.text.chat import render_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenTasks:
    """The tasks that a user gives, by how they are evaluated.

    Args:
        questions: Free text with answers given, in modes of thinking.
        generated: Tasks of lm-eval whose answers are generated in modes of thinking, by name.
        others: Those without modes: ChoiceTasks, and names and paths of lm-eval's tasks.
    """

    questions: Sequence[AnswerTask]
    generated: Mapping[str, Any]
    others: Sequence[Any]

    @classmethod
    def of(cls, tasks: Sequence[Any], thinking: str | None) -> GivenTasks:
        """Opens tasks; with thinking, those of lm-eval are loaded with their data.

        Args:
            tasks: What a user gives.
            thinking: The modes in which answers are generated, None for none.

        Raises:
            DataError: A task cannot be opened, leaves no place for a thought, or does not go
                together with the mode.
        """
        questions, others = split_tasks(tasks, thinking)
        opened = open_tasks(others)
        if thinking is None:
            return cls(questions=questions, generated={}, others=opened)
        loaded = [loaded_tasks(task) if isinstance(task, str) else {} for task in opened]
        answered = [any(map(_is_generated, each.values())) for each in loaded]
        generated: dict[str, Any] = {}
        for each in compress(loaded, answered):
            generated |= each
        for name, task in generated.items():
            _require_place_for_thought(name, task)
        if not (questions or generated):
            raise DataError(
                f"thinking={thinking!r} and no task whose answers are generated; give an "
                "AnswerTask, a file of questions and answers, or such a task of lm-eval"
            )
        ranked = [
            task for task, is_answered in zip(opened, answered, strict=True) if not is_answered
        ]
        return cls(questions=questions, generated=generated, others=ranked)

    def answers(
        self,
        model: Any,
        tokenizer: Any,
        thinking: str | None,
        asked: TaskSettings,
        settings: AnswerSettings,
    ) -> dict[tuple[str, str], Answers]:
        """Returns what a model answers, by task and mode.

        Args:
            model: A causal language model.
            tokenizer: Its tokenizer.
            thinking: The modes.
            asked: How lm-eval asks the questions of its tasks.
            settings: How answers are generated.
        """
        found: dict[tuple[str, str], Answers] = {}
        for mode in modes_of(thinking) if thinking else ():
            if self.generated:
                named = answer_tasks(model, tokenizer, self.generated, mode, (asked, settings))
                found |= {(name, mode): each for name, each in named.items()}
            for task in self.questions:
                own = answer_questions(model, tokenizer, task, mode, settings)
                found[task.name, mode] = own
        order = list(dict.fromkeys(name for name, _ in found))
        return dict(sorted(found.items(), key=lambda entry: order.index(entry[0][0])))


def _is_generated(task: Any) -> bool:
    return bool(task.OUTPUT_TYPE == "generate_until")


def _require_place_for_thought(name: str, task: Any) -> None:
    if not _is_generated(task):
        raise DataError(
            f"task {name!r} ranks choices, which has no modes of thinking, and others of its group "
            "are answered; give the tasks of the group by their names"
        )
    begun = task.get_config("gen_prefix")
    if begun:
        raise DataError(
            f"task {name!r} begins the answer with {begun!r:.60}, which leaves no place for a "
            "thought; give a task without gen_prefix, or evaluate without thinking="
        )


def answer_tasks(
    model: Any,
    tokenizer: Any,
    tasks: Mapping[str, Any],
    mode: str,
    settings: tuple[TaskSettings, AnswerSettings],
) -> dict[str, Answers]:
    """Returns what a model answers to lm-eval's tasks in one mode, scored by lm-eval.

    Prompts, few-shot examples, texts at which answers stop, filters and metrics are the task's. The
    length and the temperature of answers are ours, since those of a task are meant for answers
    without a thought. Its scorer sees what follows the thought, and nothing where none follows.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, whose template has a switch unless the settings have one.
        tasks: Loaded tasks by name.
        mode: "on" or "off".
        settings: How questions are asked, and how answers are generated.

    Returns:
        Answers by task, or by task and filter, as "gsm8k/strict-match", where there are several.

    Raises:
        DataError: lm-eval cannot run the tasks, or they have no score for each question.
    """
    asked, generated = replace(settings[0], chat=True), settings[1]
    runs = []
    for seed in range(generated.samples):
        writer = _Writer(model, tokenizer, mode, replace(generated, seed=seed))
        results = evaluated(
            model, tokenizer, list(tasks.values()), asked, replaced=writer.methods()
        )
        runs.append((writer.written, results))
    found = {}
    for name in tasks:
        rules = list(dict.fromkeys(each["filter"] for each in runs[0][1]["samples"][name]))
        for rule in rules:
            label = name if len(rules) == 1 else f"{name}/{rule}"
            found[label] = _answers([_scored(name, rule, *run) for run in runs])
    return found


class _Writer:
    """Methods of a model of lm-eval that answer in one mode, and what they wrote.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        mode: "on" or "off".
        settings: How answers are generated.
    """

    def __init__(self, model: Any, tokenizer: Any, mode: str, settings: AnswerSettings) -> None:
        self.model, self.tokenizer, self.mode = model, tokenizer, mode
        self.settings = settings
        # By task and number of the question. A task may have each question answered several times.
        self.written: dict[tuple[str, int], list[Written]] = defaultdict(list)

    def methods(self) -> dict[str, Any]:
        """Returns the methods by their names in lm-eval."""
        return {"apply_chat_template": self.prompt, "generate_until": self.answers}

    def prompt(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        """Returns a prompt in the mode; no task that begins the answer itself comes here."""
        assert add_generation_prompt
        system = self.settings.system_prompts
        return render_prompt(
            chat_history, self.tokenizer, thinking=self.mode, system_prompts=system
        )

    def answers(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Returns the answer to each request, empty where a thought does not end."""
        texts = []
        for (name, stops), group in groupby(requests, _task_and_stops):
            same = list(group)
            written = write_answers(
                self.model,
                self.tokenizer,
                [request.args[0] for request in same],
                self.settings,
                label=f"{name}, {self.mode}",
                stops=stops,
            )
            for request, each in zip(same, written, strict=True):
                self.written[name, request.doc_id].append(each)
                texts.append(each.answer or "")
        return texts


def _task_and_stops(request: Any) -> tuple[str, tuple[str, ...]]:
    until = request.args[1].get("until") or ()
    return request.task_name, (until,) if isinstance(until, str) else tuple(until)


def _scored(
    name: str, rule: str, written: Mapping[tuple[str, int], list[Written]], results: Any
) -> list[list[tuple[Written, float]]]:
    """Returns what was written in answer to each question of a task, with the score of lm-eval."""
    samples = [each for each in results["samples"][name] if each["filter"] == rule]
    entry = results["results"][name]
    metric = next(key.partition(",")[0] for key in entry if key.endswith(f",{rule}"))
    scores = values_of(samples, metric, rule)
    if scores is None:
        raise DataError(
            f"task {name!r} has no score of {metric!r} for each question, which modes are compared "
            "by; evaluate it without thinking="
        )
    return [
        [(each, score) for each in written[name, sample["doc_id"]]]
        for sample, score in zip(samples, scores.tolist(), strict=True)
    ]


def _answers(runs: Sequence[list[list[tuple[Written, float]]]]) -> Answers:
    """Returns the answers of all runs, those to each question beside each other."""
    questions = [[pair for pairs in own for pair in pairs] for own in zip(*runs, strict=True)]
    flat = [pair for own in questions for pair in own]
    samples = len(questions[0])
    return judged([each for each, _ in flat], [score for _, score in flat], samples=samples)
