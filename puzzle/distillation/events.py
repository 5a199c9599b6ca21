"""Notifications of a run to callbacks and trackers of transformers' Trainer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from puzzle.distillation.distill_config import DistillConfig
from puzzle.errors import DataError

Callback = Any


class Events:
    """The callbacks of a run, called when and how the Trainer calls them.

    They get the run's settings as TrainingArguments, its progress as TrainerState, and a
    TrainerControl whose flags request a log entry, a measurement, a checkpoint or the end.

    Args:
        config: The run's settings.
        out: The run directory.
        callbacks: TrainerCallback instances or classes.
        report_to: Names of trackers that transformers knows, such as "tensorboard".
        cpu: Whether the run is on the CPU.
        evaluates: Whether there is validation text.

    Raises:
        DataError: A callback is not a TrainerCallback, or a tracker is unknown or not installed.
    """

    def __init__(
        self,
        config: DistillConfig,
        out: Path,
        callbacks: Iterable[Callback],
        report_to: str | Iterable[str] | None,
        *,
        cpu: bool,
        evaluates: bool,
    ) -> None:
        every = config.evaluate_every
        names = tracker_names(report_to)
        self.arguments = TrainingArguments(
            output_dir=str(out),
            max_steps=config.steps,
            per_device_train_batch_size=config.micro_batch,
            learning_rate=config.peak_rate,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            logging_steps=config.log_every,
            logging_first_step=True,
            save_steps=config.checkpoint_every,
            eval_strategy="steps" if evaluates else "no",
            eval_steps=(every or config.steps) if evaluates else None,
            seed=config.seed,
            use_cpu=cpu,
            report_to="none",
        )
        self.arguments.report_to = names
        self.state = TrainerState(
            max_steps=config.steps,
            logging_steps=config.log_every,
            save_steps=config.checkpoint_every,
            eval_steps=every or config.steps,
            train_batch_size=config.step_windows,
        )
        self.control = TrainerControl()
        self._callbacks = [DefaultFlowCallback, *tracker_callbacks(names), *callbacks]
        refuse_other_callbacks(self._callbacks)

    def begin(self, model: Any, tokenizer: Any, optimizer: Any, *, step: int, first: bool) -> None:
        """Reports that training begins, at a step."""
        self.handler = CallbackHandler(self._callbacks, model, tokenizer, optimizer, None)
        self.state.global_step = step
        self.state.is_world_process_zero = self.state.is_local_process_zero = first
        self.control = self.handler.on_train_begin(self.arguments, self.state, self.control)

    def step_begins(self) -> None:
        """Reports that a step begins."""
        self.control = self.handler.on_step_begin(self.arguments, self.state, self.control)

    def step_ends(self, step: int) -> TrainerControl:
        """Reports that a step has ended and returns what the callbacks request."""
        self.state.global_step = step
        self.control = self.handler.on_step_end(self.arguments, self.state, self.control)
        return self.control

    def log(self, values: dict[str, float]) -> None:
        """Passes values to the loggers."""
        self.state.log_history.append({**values, "step": self.state.global_step})
        self.control = self.handler.on_log(self.arguments, self.state, self.control, values)

    def evaluated(self, metrics: dict[str, float]) -> None:
        """Reports a measurement."""
        self.control = self.handler.on_evaluate(self.arguments, self.state, self.control, metrics)

    def saved(self) -> None:
        """Reports that a checkpoint was written."""
        self.control = self.handler.on_save(self.arguments, self.state, self.control)

    def end(self) -> None:
        """Reports that training has ended."""
        self.control = self.handler.on_train_end(self.arguments, self.state, self.control)


def refuse_other_callbacks(callbacks: Iterable[Callback]) -> None:
    """Raises DataError if a callback has not the methods of a TrainerCallback."""
    for callback in callbacks:
        if not hasattr(callback, "on_step_end"):
            raise DataError(f"{callback!r} is not a callback; derive it from TrainerCallback")


def tracker_names(report_to: str | Iterable[str] | None) -> list[str]:
    """Returns the trackers of `report_to=`, which may be one, several, None or "none"."""
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    return [name for name in names if name != "none"]


def tracker_callbacks(names: list[str]) -> list[Any]:
    """Returns transformers' callbacks of some trackers.

    Raises:
        DataError: A tracker is unknown or not installed.
    """
    try:
        return [cls() for cls in get_reporting_integration_callbacks(names)]
    except (ValueError, RuntimeError, ImportError) as error:
        raise DataError(f"report_to={names!r} cannot be used: {error}") from error
