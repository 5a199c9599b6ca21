"""Blockwise local distillation: gradient steps on each variant's own output.

The loss of a variant is the mean squared error of what it returns, as a share of the power of
what it should return (Puzzle, arXiv:2411.19146, section 3). All variants of a layer see the same
activations in the same pass, each with an optimiser of its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from puzzle.library.experts_fit import EXPERT_CHANNELS, EXPERTS
from puzzle.library.fitting import attention_key
from puzzle.library.head_groups import GROUPS
from puzzle.library.local_error import LocalError
from puzzle.library.settings import BLDConfig
from puzzle.library.streams import Rows, Streams
from puzzle.library.variants import Variants, tensors_of
from puzzle.models.assembling import layer_from_block
from puzzle.progress.bars import counted
from puzzle.progress.listeners import announce
from search_space import FFN, Attention, Block

Tensors = dict[str, torch.Tensor]
logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Student:
    """One variant in training.

    Args:
        key: Its name.
        module: A decoder layer with this half alone, float32.
        behind: The attention an FFN comes after; None for an attention.
        optimizer: Its own.
        schedule: Its own.
        best: The weights with the least held-out error so far.
        error: That error.
        worse: Evaluations since then.
        stopped: Whether its training has ended.
    """

    key: str
    module: nn.Module
    behind: Attention | None
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    best: Tensors = field(default_factory=dict)
    error: float = math.inf
    worse: int = 0
    stopped: bool = False

    def judge(self, error: float, patience: int) -> None:
        """Keeps the weights if their held-out error is the least so far."""
        if error < self.error:
            self.error, self.worse = error, 0
            self.best = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
            return
        self.worse += 1
        self.stopped = self.worse >= patience or not math.isfinite(error)


class LayerDistill:
    """Trains the variants of one layer.

    Args:
        variants: Their weights to start from.
        streams: What enters the layer, and what it should return.
        config: Steps and schedule.
    """

    def __init__(self, variants: Variants, streams: Streams, config: BLDConfig) -> None:
        self.variants, self.streams, self.config = variants, streams, config
        self.parent = variants.parent
        length = streams.x.shape[1]
        self.steps = max(1, config.tokens // (min(config.batch, streams.train) * length))
        self.students: dict[str, Student] = {}
        # Windows run at once.
        self.part = config.batch

    def train(
        self, blocks: Iterable[Block], errors: dict[str, LocalError]
    ) -> tuple[Tensors, dict[str, LocalError]]:
        """Returns the trained tensors of all variants that some blocks need, and the errors."""
        self._enroll(tuple(blocks))
        self._evaluate()
        every = max(1, self.steps // self.config.evaluations)
        bar = counted(self._order(), "distillation", "step", self.steps, leave=False)
        for step, windows in enumerate(bar, start=1):
            if all(student.stopped for student in self.students.values()):
                break
            self._step(windows)
            if step % every == 0 or step == self.steps:
                self._evaluate()
        tensors = dict(self.variants.stored)
        trained = dict(errors)
        for key, student in self.students.items():
            tensors.pop(f"{key}/channels", None)
            tensors.pop(f"{key}/{GROUPS}", None)
            tensors.pop(f"{key}/{EXPERTS}", None)
            tensors.pop(f"{key}/{EXPERT_CHANNELS}", None)
            for name, tensor in student.best.items():
                tensors[f"{key}/{name}"] = tensor.to(self.parent.dtype).cpu()
            trained[key] = errors[key].after(student.error)
        return tensors, trained

    def _enroll(self, blocks: tuple[Block, ...]) -> None:
        stored = {name.rpartition("/")[0] for name in self.variants.stored}
        for block in blocks:
            key = attention_key(block.attention)
            if key in stored and key not in self.students:
                half = Block(block.attention, FFN("none"))
                self._add(key, block, half, None)
        for block in blocks:
            key = self.variants.ffn_key(block)
            if key in stored and key not in self.students:
                behind = Attention.from_label(key.split("/")[1])
                self._add(key, block, Block(Attention("none"), block.ffn), behind)

    def _add(self, key: str, whole: Block, half: Block, behind: Attention | None) -> None:
        parent, config = self.parent, self.config
        family = parent.family
        slot = family.mixing(whole.attention) if behind is None else family.ffn
        tensors = {
            name: tensor.to(self.streams.device, torch.float32, copy=True)
            for name, tensor in tensors_of(self.variants.block_tensors(whole), slot.names).items()
        }
        module = layer_from_block(parent.config, parent.shape, self.variants.layer, half, tensors)
        module.requires_grad_(True)
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        warm_up = round(self.steps * config.warm_up)
        schedule = get_cosine_schedule_with_warmup(optimizer, warm_up, self.steps)
        self.students[key] = Student(key, module, behind, optimizer, schedule)

    def _order(self) -> Iterable[torch.Tensor]:
        """Yields the windows of each step: passes over the fitted ones, each in a new order."""
        generator = torch.Generator().manual_seed(self.config.seed + self.variants.layer)
        batch = min(self.config.batch, self.streams.train)
        queue = torch.empty(0, dtype=torch.long)
        for _ in range(self.steps):
            while len(queue) < batch:
                more = torch.randperm(self.streams.train, generator=generator)
                queue = torch.cat([queue, more])
            yield queue[:batch]
            queue = queue[batch:]

    def _autocast(self) -> AbstractContextManager[object]:
        if self.parent.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.streams.device.type, torch.bfloat16)

    def _step(self, windows: torch.Tensor) -> None:
        """Takes one step of every student, in smaller parts if the device runs out of memory."""
        while True:
            try:
                for part in windows.split(self.part):
                    self._backward(self.streams[part], len(part) / len(windows))
                break
            except torch.OutOfMemoryError:
                if self.part == 1:
                    raise
                self.part = max(1, self.part // 2)
                logger.warning("out of device memory; continuing in parts of %d windows", self.part)
                for student in self.students.values():
                    student.optimizer.zero_grad(set_to_none=True)
        for student in self.students.values():
            if not student.stopped:
                nn.utils.clip_grad_norm_(student.module.parameters(), self.config.clip)
                student.optimizer.step()
                student.schedule.step()
            student.optimizer.zero_grad(set_to_none=True)

    @torch.enable_grad()
    def _backward(self, rows: Rows, weight: float) -> None:
        for student, loss in self._losses(rows, lambda student: not student.stopped):
            share = weight * loss / self._power(student, rows)
            if bool(torch.isfinite(share)):
                share.backward()
            else:
                student.stopped = True

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Measures the held-out errors; each student keeps its best weights."""
        missed = dict.fromkeys(self.students, 0.0)
        power = dict.fromkeys(self.students, 0.0)
        kept = {key: not student.stopped for key, student in self.students.items()}

        def measure(rows: Rows) -> list[tuple[str, float, float]]:
            pairs = self._losses(rows, lambda student: kept[student.key])
            return [(s.key, float(loss), float(self._power(s, rows))) for s, loss in pairs]

        for late, losses in self.streams.batches(measure, held_out_only=True):
            for key, loss, whole in losses if late else []:
                missed[key] += loss
                power[key] += whole
        errors = {key: missed[key] / max(power[key], 1e-30) for key in self.students}
        for key, student in self.students.items():
            if kept[key]:
                student.judge(errors[key], self.config.patience)
        if errors:
            mean = sum(errors.values()) / len(errors)
            announce({"library/layer": self.variants.layer, "library/error": mean})

    def _power(self, student: Student, rows: Rows) -> torch.Tensor:
        """Returns the power that a student's error is a share of."""
        own = self.parent.shape.parent_blocks[self.variants.layer].attention
        if student.behind is None:
            return rows.attention.square().sum().clamp_min(1e-30)
        whole = rows.update if student.behind != own else rows.update - rows.attention
        return whole.square().sum().clamp_min(1e-30)

    def _losses(
        self, rows: Rows, wanted: Callable[[Student], bool]
    ) -> Iterable[tuple[Student, torch.Tensor]]:
        """Yields each wanted student with its squared error; attentions come first."""
        x, added = rows.x.float(), {"attention/none": torch.zeros_like(rows.attention)}
        for student in self.students.values():
            if student.behind is None:
                learning = torch.is_grad_enabled() and wanted(student)
                with self._autocast(), torch.set_grad_enabled(learning):
                    out = self.parent.run(student.module, x) - x
                added[student.key] = out.detach()
                if wanted(student):
                    yield student, (out - rows.attention).square().sum()
            elif wanted(student):
                before = added.get(attention_key(student.behind), rows.attention)
                middle = x + before
                with self._autocast():
                    out = self.parent.run(student.module, middle) - middle
                yield student, (out - (rows.update - before)).square().sum()
