"""DistillConfig: the settings of a distillation, apart from models and data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from puzzle.errors import SettingError
from puzzle.storage.plain_values import count_of, make_plain
from puzzle.text.thoughts import check_system_prompts

LOSSES = ("cosine", "mse", "kl", "reverse_kl", "lm")
# What a teacher's likeliest tokens are enough for, without the parent itself.
OFFLINE_LOSSES = ("kl", "lm")
PRECISIONS = ("no", "bf16")
# Highest learning rate of each optimiser, where none is given.
RATES = {"adamw": 1e-4, "muon": 5e-4}
# Tokens per position of an offline teacher: what vLLM gives, if it is not started with more.
TOP_K = 20
THINKING = ("both", "on", "off")
# Windows per step where none are given, and the steps below which they are fewer.
WINDOWS, FEWEST_STEPS = 16, 24
# These change how a run is computed or monitored, not its result.
_NOT_RESULTS = frozenset(
    {
        "micro_batch",
        "gradient_checkpointing",
        "vocab_chunk",
        "shard",
        "checkpoint_every",
        "keep_checkpoints",
        "async_checkpoints",
        "timeout_minutes",
        "evaluate_every",
        "log_every",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillConfig:
    """How a child is distilled from its parent.

    Args:
        losses: Weights of the terms that are summed. "cosine": 1 - cos of the residual streams,
            mean over layer boundaries and tokens; "mse": their squared distance, as a share of
            the parent's power; "kl": KL(parent || child) of the next-token distributions, in nats
            per token; "reverse_kl": KL(child || parent); "lm": cross-entropy of the text. The
            default is that of Puzzle (arXiv 2411.19146, section 5), which leaves "lm" out.
        tokens: Tokens that are trained on, over all steps.
        length: Tokens per window; documents are packed, so that every window is full.
        batch: Windows per optimiser step, over all processes; by default 16, or fewer (multiples of
            `micro_batch`) where the tokens would not make 24 steps of 16.
        micro_batch: Windows per forward pass of one process; the rest is accumulated.
        optimizer: "muon" for the matrices of the layers, whose updates have the size of AdamW's,
            with AdamW for embedding, head, norms and biases at a tenth of the rate; or "adamw".
        train_embeddings: Whether embedding and head are trained beside the layers. Without them a
            step takes less time and memory.
        learning_rate: Highest learning rate; by default 5e-4 for Muon and 1e-4 for AdamW.
        warmup: Share of the steps in which the rate rises from zero.
        final_share: Share of the highest rate that is left at the last step.
        weight_decay: Weight decay of matrices.
        betas: AdamW's betas. Muon's momentum is 0.95.
        max_grad_norm: Norm to which longer gradients are clipped.
        mixed_precision: "bf16" or "no"; by default it follows `accelerate launch`. Weights are
            updated in float32 either way. With "no" the parent computes in the number format that
            it is stored in, or in float32 where the device is much faster in that.
        gradient_checkpointing: Recompute the child's layers in the backward pass to save memory.
        vocab_chunk: Logits of this many tokens of the vocabulary are in memory at a time, or fewer.
        shard: Whether both models are sharded over the processes (FSDP2); by default that follows
            `accelerate launch`.
        boundaries: Pairs of child layer and parent layer whose outputs are compared. By default
            each layer's with that of the parent's layer of the same number, which is right as
            long as the child has as many layers: one that lost both sublayers keeps its place. A
            child with fused layers needs this; see `boundary_pairs`.
        thinking: For `messages` and a chat template with a thinking switch: "both" alternates
            between the modes, "on" or "off" uses one. "off" leaves thoughts out; "on" reads only
            rows with one; a row that names its mode (`reasoning`, or `enable_thinking` in
            `chat_template_kwargs`) is read in that.
        system_prompts: For a model whose switch is a system prompt rather than the template: that
            of each mode, such as {"on": "detailed thinking on", "off": "detailed thinking off"}.
        shuffle_buffer: Documents among which a streamed data set is shuffled.
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: How many of the newest checkpoints are kept.
        async_checkpoints: Whether steps go on while a checkpoint is written, from a copy in the
            memory of the host: of each process's shards, or of all in the first process.
        timeout_minutes: Minutes that processes wait for one another before the run ends with an
            error: longer than the first one takes to read both models, or to write the child.
        evaluate_every: Steps between measurements on the validation text; 0 measures only at the
            end.
        validation_windows: Windows that are cut from validation text.
        log_every: Steps between log entries.
        seed: Order of the documents.

    Raises:
        SettingError: A value is not allowed; the message says which ones are.
    """

    losses: Mapping[str, float] = field(default_factory=lambda: {"cosine": 1.0, "kl": 1.0})
    tokens: int = 10_000_000
    length: int = 1024
    batch: int | None = None
    micro_batch: int = 4
    optimizer: str = "muon"
    train_embeddings: bool = True
    learning_rate: float | None = None
    warmup: float = 0.05
    final_share: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    mixed_precision: str | None = None
    gradient_checkpointing: bool = False
    vocab_chunk: int = 8192
    shard: bool | None = None
    boundaries: tuple[tuple[int, int], ...] | None = None
    thinking: str = "both"
    system_prompts: Mapping[str, str] | None = None
    shuffle_buffer: int = 1000
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    async_checkpoints: bool = False
    timeout_minutes: int = 60
    evaluate_every: int = 0
    validation_windows: int = 16
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        make_plain(self)
        self._check_losses()
        for name in ("tokens", "micro_batch", "vocab_chunk", "shuffle_buffer"):
            count_of(name, getattr(self, name))
        if self.batch is not None:
            count_of("batch", self.batch)
        count_of("length", self.length, least=2)
        for name in ("checkpoint_every", "keep_checkpoints", "log_every", "validation_windows"):
            count_of(name, getattr(self, name))
        count_of("timeout_minutes", self.timeout_minutes)
        for name in ("evaluate_every", "seed"):
            count_of(name, getattr(self, name), least=0)
        if self.optimizer not in RATES:
            raise SettingError(f"optimizer={self.optimizer!r}; allowed: {tuple(RATES)}")
        if self.learning_rate is not None:
            self._check_number("learning_rate", 0.0, math.inf, open_low=True)
        self._check_number("max_grad_norm", 0.0, math.inf, open_low=True)
        self._check_number("weight_decay", 0.0, math.inf)
        self._check_number("warmup", 0.0, 1.0)
        self._check_number("final_share", 0.0, 1.0)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise SettingError(f"betas={self.betas!r}; allowed: two numbers from 0 to below 1")
        if self.mixed_precision not in (None, *PRECISIONS):
            raise SettingError(
                f"mixed_precision={self.mixed_precision!r}; allowed: 'bf16', 'no' or None (fp16 "
                "would need its loss scaled and is not supported)"
            )
        if self.thinking not in THINKING:
            raise SettingError(f"thinking={self.thinking!r}; allowed: {THINKING}")
        check_system_prompts(self.system_prompts)

    def _check_losses(self) -> None:
        if not self.losses or any(name not in LOSSES for name in self.losses):
            raise SettingError(
                f"losses={dict(self.losses)!r}; allowed: weights by name of {LOSSES}"
            )
        bad = {k: w for k, w in self.losses.items() if not (math.isfinite(w) and w > 0)}
        if bad:
            raise SettingError(f"weights of losses {bad}; allowed: positive numbers")

    def _check_number(self, name: str, low: float, high: float, *, open_low: bool = False) -> None:
        value = getattr(self, name)
        inside = isinstance(value, int | float) and math.isfinite(value) and low <= value <= high
        if not inside or (open_low and value == low):
            raise SettingError(
                f"{name}={value!r}; allowed: numbers {'above' if open_low else 'from'} {low:g}"
                + ("" if high == math.inf else f" to {high:g}")
            )

    @property
    def step_windows(self) -> int:
        """Windows per optimiser step: those given, or as many as leave enough steps.

        Example:
            >>> [DistillConfig(tokens=tokens).step_windows for tokens in (50_000, 200_000, 10**7)]
            [4, 8, 16]
        """
        if self.batch is not None:
            return self.batch
        whole = WINDOWS // self.micro_batch
        fitting = self.tokens // (FEWEST_STEPS * self.length * self.micro_batch)
        return self.micro_batch * max(1, min(whole, fitting))

    @property
    def steps(self) -> int:
        """Number of optimiser steps that the tokens allow, at least one."""
        return max(1, self.tokens // (self.step_windows * self.length))

    @property
    def parent_losses(self) -> tuple[str, ...]:
        """The losses that need the parent itself: an offline teacher is not enough for them."""
        return tuple(sorted(set(self.losses) - set(OFFLINE_LOSSES)))

    @property
    def peak_rate(self) -> float:
        """Highest learning rate: the given one, or that of the optimiser."""
        return RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    def rate(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0: linear warm-up, then a cosine.

        Example:
            >>> config = DistillConfig(tokens=1024 * 160, batch=16, warmup=0.2, learning_rate=1.0)
            >>> [round(config.rate(step), 2) for step in (0, 1, 2, 9)]
            [0.5, 1.0, 0.97, 0.13]
        """
        warm = round(self.warmup * self.steps)
        if step < warm:
            return self.peak_rate * (step + 1) / warm
        done = (step + 1 - warm) / max(1, self.steps - warm + 1)
        share = self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * done)) / 2
        return self.peak_rate * share

    def accumulation(self, processes: int) -> int:
        """Returns the number of forward passes of each process per step.

        Raises:
            SettingError: The batch cannot be divided evenly.
        """
        passes, rest = divmod(self.step_windows, self.micro_batch * processes)
        if rest or not passes:
            raise SettingError(
                f"batch={self.step_windows} cannot be divided among {processes} process(es) with "
                f"micro_batch={self.micro_batch}; allowed: multiples of "
                f"{self.micro_batch * processes}"
            )
        return passes

    def result_fields(self) -> dict[str, Any]:
        """Returns the fields that change the result, which identify the checkpoints of a run."""
        fields = {**asdict(self), "batch": self.step_windows}
        return {name: value for name, value in fields.items() if name not in _NOT_RESULTS}
