"""Replies of models that take turns, timed through `generate()`, which is what people call.

A whole reply is not generated. The whole prompt is read, and decoding is timed for a few steps at
the first, middle and last number of cached tokens, between which a step's seconds change linearly.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import DynamicCache

from puzzle.costs.measured.stacks import contexts, mean_step
from puzzle.hardware.stopwatch import standard_error
from puzzle.limits.scenario import Scenario
from puzzle.models.child import record_length
from puzzle.progress.bars import Count
from puzzle.storage.json_values import field_values

# Decode steps timed together: at most STEPS, and as few as fill STEP_SECONDS, but at least two.
STEPS, STEP_SECONDS = 8, 0.2
LEAST_ROUNDS, MOST_ROUNDS, GOAL = 3, 6, 0.01
# A clock may show no difference between one token and a few with a tiny model.
SHORTEST = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Seconds and memory that a model takes for a scenario.

    Args:
        prefill_seconds: From the batch of prompts to the first token of each reply.
        decode_seconds: The `generated_tokens` further steps.
        kv_cache: Bytes of the KV cache when the replies are complete.
        memory: Bytes of the weights and of that cache.
        parameters: Number of weights.
    """

    prefill_seconds: float
    decode_seconds: float
    kv_cache: int
    memory: int
    parameters: int

    @property
    def seconds(self) -> float:
        """Seconds of the whole scenario."""
        return self.prefill_seconds + self.decode_seconds

    def to_dict(self) -> dict[str, float]:
        """Returns plain JSON values, including the total seconds."""
        return {**asdict(self), "seconds": self.seconds}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A parent and a child, timed in turns.

    Args:
        parent: The parent's figures.
        child: The child's figures.
        ratio_error: Relative standard error of the ratio of the child's to the parent's seconds.
        rounds: How often both were timed.
    """

    parent: Reply
    child: Reply
    ratio_error: float
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Pair:
        """Returns the pair that `to_dict` wrote.

        Raises:
            DataError: A value is missing, or of another kind.
        """
        given = field_values(cls, values, skip=("parent", "child"))
        replies = {who: Reply(**field_values(Reply, given[who])) for who in ("parent", "child")}
        return cls(**{**given, **replies})


@torch.no_grad()
def time_pair(
    parent: Any,
    child: Any,
    scenario: Scenario,
    *,
    device: str,
    clock: str = "wall",
    most: int = MOST_ROUNDS,
) -> Pair:
    """Times parent and child on a scenario, in turns.

    The child's seconds are the median ratio to the parent's in the same round, times the parent's
    median, so that a slow spell of the machine affects both alike.

    Args:
        parent: A causal language model.
        child: Another one.
        scenario: Batch, prompt and generated tokens.
        device: Where they run; the models are moved there.
        clock: "wall", or on a CPU "cpu": processor seconds, which other work hardly disturbs.
        most: Maximum number of rounds.
    """
    runs = [_Replies(model.to(device), scenario, clock) for model in (parent, child)]
    rows: list[tuple[tuple[float, float], ...]] = []
    error = math.inf
    with Count("speed", "reply", 2 * (1 + most)) as bar:
        for turn in range(1 + most):
            row = []
            for run in runs:
                row.append(run.seconds())
                bar.update(note=f"round {turn}" if turn else "warm-up")
            if turn:  # the first is a warm-up
                rows.append(tuple(row))
            if len(rows) >= LEAST_ROUNDS:
                logs = [math.log(sum(b) / sum(a)) for a, b in rows]
                error = standard_error(logs)
                if error <= GOAL:
                    break
    phases = []
    for phase in (0, 1):
        median = statistics.median(a[phase] for a, _ in rows)
        ratio = statistics.median(b[phase] / a[phase] for a, b in rows)
        phases.append((median, ratio * median))
    replies = [run.reply(phases[0][at], phases[1][at]) for at, run in enumerate(runs)]
    return Pair(parent=replies[0], child=replies[1], ratio_error=error, rounds=len(rows))


class _Replies:
    """One model in one scenario."""

    def __init__(self, model: Any, scenario: Scenario, clock: str) -> None:
        self.model, self.scenario, self.clock = model, scenario, clock
        size = (scenario.batch, scenario.sequence_tokens + STEPS)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(1, model.config.vocab_size, size, generator=generator)
        self.tokens = tokens.to(model.device)
        self.steps = min(STEPS, scenario.generated_tokens)
        self.cached_bytes = 0

    def seconds(self) -> tuple[float, float]:
        """Returns the seconds of prefill and of decoding the whole reply."""
        length = self.scenario.prompt_tokens
        prefill, held = generate_seconds(self.model, self.tokens[:, :length], 1, self.clock)
        self.cached_bytes = held * self.scenario.sequence_tokens // length
        steps = [(n, self._step_seconds(n)) for n in contexts(self.scenario)]
        step = max(mean_step(steps, self.scenario), SHORTEST)
        wanted = math.ceil(min(STEP_SECONDS / step, STEPS))
        self.steps = min(max(2, wanted), self.scenario.generated_tokens)
        return prefill, step * self.scenario.generated_tokens

    def _step_seconds(self, cached: int) -> float:
        """Returns the seconds of one decode step with `cached` tokens in the cache at first."""
        one, several = (
            generate_seconds(
                self.model, self.tokens[:, : cached + 1], count, self.clock, self._cache(cached)
            )[0]
            for count in (1, 1 + self.steps)
        )
        return max(several - one, 0.0) / self.steps

    def _cache(self, cached: int) -> DynamicCache:
        cache = DynamicCache(config=self.model.config)
        for index, layer in enumerate(self.model.model.layers):
            if layer.attention_kind == "gqa":
                attention = getattr(layer, layer.family.attention.module)
                heads = self.model.config.block(index).attention.kv_heads
                size = (self.scenario.batch, heads, cached, attention.head_dim)
                keys = torch.zeros(size, dtype=self.model.dtype, device=self.model.device)
                cache.update(keys, keys.clone(), index)
            elif layer.tells_length:
                tokens = (self.scenario.batch, cached, 0)
                record_length(cache, torch.empty(tokens, device=self.model.device), index)
        return cache

    def reply(self, prefill: float, decode: float) -> Reply:
        parameters = list(self.model.parameters())
        weights = sum(parameter.nbytes for parameter in parameters)
        return Reply(
            prefill_seconds=prefill,
            decode_seconds=decode,
            kv_cache=self.cached_bytes,
            memory=weights + self.cached_bytes,
            parameters=sum(parameter.numel() for parameter in parameters),
        )


def generate_seconds(
    model: Any,
    prompt_BL: torch.Tensor,
    tokens: int,
    clock: str = "wall",
    cache: DynamicCache | None = None,
) -> tuple[float, int]:
    """Returns the seconds of greedy `generate()` and the bytes of the KV cache at its end.

    Args:
        model: A causal language model, on the prompt's device.
        prompt_BL: Prompts of one length.
        tokens: How many tokens are generated for each; end-of-text does not stop it.
        clock: "wall" or "cpu", as for `time_pair`.
        cache: The KV cache of the prompts without their last token.
    """
    now = time.process_time if clock == "cpu" else time.perf_counter
    known = {} if cache is None else {"past_key_values": cache}
    _wait(prompt_BL.device)
    start = now()
    output = model.generate(
        prompt_BL,
        attention_mask=torch.ones_like(prompt_BL),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        **known,
    )
    _wait(prompt_BL.device)
    seconds = now() - start
    return seconds, _cache_bytes(getattr(output, "past_key_values", None))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cache_bytes(cache: Any) -> int:
    # A model without attention has no cache.
    held = [
        tensor.nbytes
        for layer in (() if cache is None else cache.layers)
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if tensor is not None
    ]
    return sum(held)
