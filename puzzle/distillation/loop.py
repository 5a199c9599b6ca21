"""Loop: the steps of a distillation."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from puzzle.distillation.checkpoints import Checkpoints
from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.distiller import Distiller, checkpoint_layers
from puzzle.distillation.events import Events
from puzzle.distillation.optimizers import Optimizers
from puzzle.errors import DivergedError, WorkspaceError
from puzzle.progress.bars import Count
from puzzle.text.packing import PackedStream

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingText:
    """The text of a distillation.

    Args:
        stream: Training windows.
        validation: Windows that quality is measured on, if any.
        tokenizer: Handed to the callbacks.
    """

    stream: PackedStream
    validation: torch.Tensor | None
    tokenizer: Any


class Loop:
    """Trains the child of a distiller that is on its devices.

    Args:
        distiller: Both models.
        module: The module to call in its place: the distiller, or its replicated form.
        config: The settings.
        text: The text to train and measure on.
        checkpoints: Where the state is kept, and the processes that share it.
        events: Callbacks and trackers to notify.
    """

    def __init__(
        self,
        *,
        distiller: Distiller,
        module: Any,
        config: DistillConfig,
        text: TrainingText,
        checkpoints: Checkpoints,
        events: Events,
    ) -> None:
        self.module, self.config, self.events = module, config, events
        self.stream, self.validation, self.tokenizer = text.stream, text.validation, text.tokenizer
        self.checkpoints, self.parallel = checkpoints, checkpoints.parallel
        self.child = distiller.child.train()
        if config.gradient_checkpointing:
            checkpoint_layers(self.child)
        self.parameters = {
            name: parameter
            for name, parameter in self.child.named_parameters()
            if parameter.requires_grad
        }
        self.optimizer = Optimizers(self.parameters, config)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.evaluations: list[dict[str, float]] = []

    def run(self) -> None:
        """Trains to the end, from the newest checkpoint or from the start."""
        try:
            self._train()
        except BaseException as error:
            # What was copied is whole, whatever has ended the steps.
            try:
                self.checkpoints.finish()
            except WorkspaceError as failed:
                error.add_note(f"the last checkpoint could not be written either: {failed}")
            raise
        self.checkpoints.finish()

    def _train(self) -> None:
        self._restore()
        first = self.parallel.first
        self.events.begin(self.child, self.tokenizer, self.optimizer, step=self.step, first=first)
        if self.validation is not None and not self.evaluations:
            self._evaluate()
        steps = self.config.steps
        with Count("distil", "step", steps, done=self.step, shown=first) as bar:
            while self.step < steps and not self.events.control.should_training_stop:
                self.events.step_begins()
                entry = self._one_step()
                self.step += 1
                bar.update(note=f"loss {entry['loss']:.4f}")
                self._after(entry)
        self.events.end()

    def _one_step(self) -> dict[str, float]:
        started = time.perf_counter()
        rate = self.config.rate(self.step)
        self.optimizer.set_rate(rate)
        means = self._gradients()
        # The norm of the whole gradient, even where each process holds only a part of it.
        norm = torch.nn.utils.clip_grad_norm_(
            list(self.parameters.values()), self.config.max_grad_norm
        )
        full_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        self._refuse_divergence(means, full_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        entry = {
            "step": self.step + 1,
            "tokens": (self.step + 1) * self.config.step_windows * self.config.length,
            **means,
            "learning_rate": rate,
            "grad_norm": full_norm,
            "seconds": time.perf_counter() - started,
        }
        self.history.append(entry)
        return entry

    def _gradients(self) -> dict[str, float]:
        """Accumulates the gradients of one step and returns the mean loss and terms."""
        config, parallel = self.config, self.parallel
        windows = self.stream.take(config.step_windows)[parallel.rank :: parallel.size]
        parts = windows.to(parallel.device).split(config.micro_batch)
        sums = torch.zeros(1 + len(config.losses), device=parallel.device)
        for number, tokens_BL in enumerate(parts):
            with parallel.accumulating(self.module, number == len(parts) - 1):
                with parallel.precision():
                    loss, terms = self.module(tokens_BL)
                (loss / len(parts)).backward()
            sums += torch.cat([loss.detach()[None], terms])
        means = parallel.mean(sums / len(parts)).tolist()
        return dict(zip(("loss", *config.losses), means, strict=True))

    def _refuse_divergence(self, means: dict[str, float], norm: float) -> None:
        if all(map(math.isfinite, (*means.values(), norm))):
            return
        kept = self.checkpoints.steps()
        where = f"step {kept[0]}" if kept else "the start"
        raise DivergedError(
            f"step {self.step + 1} is not finite: {means}, gradient {norm}. No weight was changed "
            f"by it, and the same call continues from {where}. Lower learning_rate (now "
            f"{self.config.peak_rate:g}) or raise warmup; other settings start a new run"
        )

    def _after(self, entry: dict[str, float]) -> None:
        control = self.events.step_ends(self.step)
        if control.should_evaluate:
            self._evaluate()
        if control.should_log:
            self.events.log(dict(entry))
        # A run that is stopped is meant to be resumed later.
        if control.should_save or control.should_training_stop:
            self._save()
            self.events.saved()

    @torch.no_grad()
    def _evaluate(self) -> None:
        if self.validation is None:
            return
        config, parallel = self.config, self.parallel
        # Every process has to call a sharded model equally often.
        count = max(1, len(self.validation) // parallel.size) * parallel.size
        windows = self.validation.repeat(-(-count // len(self.validation)), 1)[:count]
        mine = windows[parallel.rank :: parallel.size].to(parallel.device)
        self.child.eval()
        sums = torch.zeros(2, device=parallel.device)
        for tokens_BL in mine.split(config.micro_batch):
            with parallel.precision():
                sums += torch.stack(self.module(tokens_BL, measure=True)) * len(tokens_BL)
        self.child.train()
        kl, loss = parallel.mean(sums / len(mine)).tolist()
        metrics = {"kl": kl, "perplexity": math.exp(min(loss, 700.0))}
        self.evaluations.append({"step": self.step, **metrics})
        named = {f"eval_{name}": value for name, value in metrics.items()}
        self.events.log(named)
        self.events.evaluated(named)

    def _save(self) -> None:
        values, tensors = self.stream.state()
        values = {
            "step": self.step,
            "other_steps": self.optimizer.other_steps(self.parameters, self.step),
            "stream": values,
            "history": self.history,
            "evaluations": self.evaluations,
            "log": self.events.state.log_history,
        }
        self.checkpoints.save(self.step, self.parameters, self.optimizer, values, tensors)

    def _restore(self) -> None:
        artifact = self.checkpoints.newest()
        if artifact is None:
            return
        values, tensors = self.checkpoints.load(artifact, self.parameters, self.optimizer)
        self.stream.restore(values["stream"], tensors)
        self.step = values["step"]
        self.history, self.evaluations = values["history"], values["evaluations"]
        self.events.state.log_history = values["log"]
        logger.info("resuming from step %d", self.step)
