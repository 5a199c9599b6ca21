"""Tasks through lm-eval's Hugging Face interface, question by question."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from puzzle.errors import DataError, SettingError
from puzzle.evaluation.metrics_on_text import MeanEstimate, estimate
from puzzle.evaluation.questions import ChoiceTask, mmlu_dev, read_task
from puzzle.storage.plain_values import count_of, make_plain
from puzzle.storage.temporary_places import temporary_place
from puzzle.text.template_rendering import apply_template

MMLU_DEV = "mmlu-dev"
# lm-eval's own, so that the examples before a question are those of its leaderboards.
_SHOT_SEED = 1234


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskScore:
    """The score of a model in a task.

    Args:
        metric: Name of lm-eval's metric, such as "acc".
        score: Its mean.
        samples: Its value for each question, or None where a task has no mean over questions.
        chance: The score of guessing, if it is known.
    """

    metric: str
    score: MeanEstimate
    samples: torch.Tensor | None
    chance: float | None


def open_tasks(tasks: Sequence[Any]) -> list[Any]:
    """Returns the tasks that a user names: ChoiceTasks, names that lm-eval knows, paths of YAML.

    Raises:
        SettingError: A task is none of these.
        DataError: lm-eval does not know a name, or is not installed.
    """
    opened: list[Any] = []
    for task in tasks:
        if isinstance(task, Path):
            task = _require_file(task) if is_yaml(task.name) else read_task(task)
        elif task == MMLU_DEV:
            task = mmlu_dev()
        elif not isinstance(task, ChoiceTask | str):
            raise SettingError(
                f"task {task!r:.80}; allowed: a name that lm-eval knows, 'mmlu-dev', the "
                "pathlib.Path of a file of questions or of lm-eval's YAML, or a ChoiceTask"
            )
        opened.append(task)
    words = [task for task in opened if isinstance(task, str) and not is_yaml(task)]
    if words:
        _require_known(words)
    names = [task if isinstance(task, str) else task.name for task in opened]
    if len(set(names)) < len(names):
        raise SettingError(f"two tasks have the same name: {sorted(names)}")
    return opened


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """How the questions of tasks are asked.

    Args:
        limit: Questions per task, the first ones; all if not given.
        shots: Solved examples before each question, for tasks that have some.
        batch: Questions that are evaluated together.
        chat: Whether questions are rendered by the chat template.
    """

    limit: int | None = None
    shots: int | None = None
    batch: int = 8
    chat: bool = False

    def __post_init__(self) -> None:
        make_plain(self)
        count_of("batch", self.batch)
        for name, least in {"limit": 1, "shots": 0}.items():
            if getattr(self, name) is not None:
                count_of(name, getattr(self, name), least=least)


def run_tasks(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[Any],
    settings: TaskSettings,
) -> dict[str, TaskScore]:
    """Returns a model's scores by task.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        tasks: What `open_tasks` returns.
        settings: How they are asked.

    Raises:
        DataError: lm-eval is not installed, or a task's data is not available.
    """
    # Templates come with models, so they are rendered within limits here as well.
    render = partial(_templated, tokenizer)
    with temporary_place() as place:
        given = [t if isinstance(t, str) else t.config(place) for t in tasks]
        replaced = {"apply_chat_template": render}
        results = evaluated(model, tokenizer, given, settings, replaced=replaced)
    chances = {t.name: t.chance for t in tasks if isinstance(t, ChoiceTask)}
    return {
        name: _score(entry, results["samples"].get(name), chances.get(name))
        for name, entry in results["results"].items()
    }


def evaluated(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[Any],
    settings: TaskSettings,
    *,
    replaced: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns what lm-eval's `simple_evaluate` does, without its description of the machine.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        tasks: Names, configurations or tasks of lm-eval.
        settings: How they are asked.
        replaced: Methods in place of those of lm-eval's model, by name.

    Raises:
        DataError: lm-eval is not installed, or cannot run a task.
    """
    wrapped = _lm_eval("models.huggingface").HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=settings.batch
    )
    for name, method in replaced.items():
        setattr(wrapped, name, method)
    manager = _task_manager(any(isinstance(t, str) and not is_yaml(t) for t in tasks))
    try:
        loaded = manager.load(list(tasks))
        for task in loaded["tasks"].values():
            _set_shots(task, settings.shots)
        results = _lm_eval("evaluator").evaluate(
            wrapped,
            loaded,
            limit=settings.limit,
            apply_chat_template=settings.chat,
            fewshot_as_multiturn=True,
            bootstrap_iters=0,
            log_samples=True,
        )
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"lm-eval cannot run {[_name(t) for t in tasks]}: {error}") from error
    assert results is not None
    return dict(results)


def _set_shots(task: Any, shots: int | None) -> None:
    """Sets the solved examples of a task; where the task says that it has none, it has none."""
    own = task.get_config("num_fewshot")
    if own is None or (shots is not None and own != 0):
        task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=_SHOT_SEED)


def _name(task: Any) -> str:
    """Returns the name of a task in any form that lm-eval takes."""
    if isinstance(task, dict):
        return str(task["task"])
    return task if isinstance(task, str) else str(task.task_name)


def loaded_tasks(name: str) -> dict[str, Any]:
    """Returns the tasks of lm-eval that a name or the path of a YAML file stands for, by name.

    Raises:
        DataError: A task cannot be loaded, or its data is not available.
    """
    try:
        loaded = _task_manager(not is_yaml(name)).load([name])
    except (KeyError, ValueError, OSError, ImportError) as error:
        raise DataError(f"lm-eval cannot load task {name!r}: {error}") from error
    return dict(loaded["tasks"])


def is_yaml(name: str) -> bool:
    """Returns whether a task is named by the path of a YAML file."""
    return name.endswith((".yaml", ".yml"))


@cache
def _task_manager(defaults: bool) -> Any:
    """Returns lm-eval's tasks, of which it reads thousands of files if its own are among them."""
    return _lm_eval("tasks").TaskManager(include_defaults=defaults)


def _lm_eval(module: str) -> Any:
    try:
        return importlib.import_module(f"lm_eval.{module}")
    except ImportError as error:
        raise DataError(
            f'lm-eval cannot be imported ({error}); run: pip install "puzzle-nas[eval]"'
        ) from error


def _require_known(names: Sequence[str]) -> None:
    """Raises DataError, before a model is loaded, if lm-eval has no task of a name."""
    known = _task_manager(True).all_tasks
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise DataError(
                f"lm-eval knows no task {name!r}{hint or '.'} Its list: lm_eval ls tasks; "
                "questions of your own are given as a file"
            )


def _require_file(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path} cannot be read; give the YAML file of a task of lm-eval")
    return str(path)


def _templated(
    tokenizer: Any, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
) -> str:
    """Returns what lm-eval's own method does, which has the same parameters."""
    return apply_template(
        tokenizer,
        chat_history,
        prompt=add_generation_prompt,
        arguments={"continue_final_message": not add_generation_prompt},
    )


def _score(entry: dict[str, Any], samples: list[Any] | None, chance: float | None) -> TaskScore:
    key = next(key for key, value in entry.items() if "," in key and isinstance(value, int | float))
    metric, _, rule = key.partition(",")
    values = values_of(samples, metric, rule)
    if values is not None:
        return TaskScore(metric=metric, score=estimate(values), samples=values, chance=chance)
    error = entry.get(f"{metric}_stderr,{rule}", math.nan)
    error = float(error) if isinstance(error, int | float) else math.nan
    score = MeanEstimate(float(entry[key]), error)
    return TaskScore(metric=metric, score=score, samples=None, chance=chance)


def values_of(samples: list[Any] | None, metric: str, rule: str) -> torch.Tensor | None:
    """Returns a metric for each question after a filter, None if it has no number for each.

    Args:
        samples: What lm-eval logs of a task, if anything.
        metric: Name of the metric.
        rule: Name of the filter.
    """
    mine = [s for s in samples or [] if s.get("filter", "none") == rule]
    try:
        return torch.tensor([float(s[metric]) for s in mine], dtype=torch.float64) if mine else None
    except (KeyError, TypeError, ValueError):
        return None
