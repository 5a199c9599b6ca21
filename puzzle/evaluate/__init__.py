"""Measuring a child: its speed, its distance to its parent, and what it can do."""

from puzzle.evaluate.compare import Evaluation, evaluate
from puzzle.evaluate.quality import quality
from puzzle.evaluate.questions import (
    BIGBENCH_TASKS,
    ChoiceTask,
    Question,
    fetch_bigbench,
    mmlu_dev,
    read_task,
)
from puzzle.evaluate.speed import speed
from puzzle.evaluate.tasks import TaskScore
from puzzle.evaluate.text import Estimate, text_metrics

__all__ = [
    "BIGBENCH_TASKS",
    "ChoiceTask",
    "Estimate",
    "Evaluation",
    "Question",
    "TaskScore",
    "evaluate",
    "fetch_bigbench",
    "mmlu_dev",
    "quality",
    "read_task",
    "speed",
    "text_metrics",
]
