"""Replies of models that take turns, timed through `generate()`, which is what people call.

A whole reply is not generated. The whole prompt is read, and decoding is timed for a few steps at
two numbers of cached tokens, whose mean is that of the reply (`stacks.contexts`).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from puzzle.costs.measured.stacks import contexts, mean_step, steps_together
from puzzle.hardware.stopwatch import standard_error
from puzzle.limits.scenario import Scenario
from puzzle.models.child import record_length
from puzzle.progress.bars import Count
from puzzle.storage.json_values import field_values

STEP_SECONDS = 0.2  # which decode steps that are timed together take
LEAST_ROUNDS, MOST_ROUNDS, GOAL = 3, 8, 0.01
PREFILL, DECODE = "prefill", "decode"
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
        rounds: In how many rounds both were timed; only the first had to time both phases.
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
    median, so that a slow spell of the machine affects both alike. After the least number of
    rounds, each times the phase that adds most to the error for the seconds that it takes.

    Args:
        parent: A causal language model.
        child: Another one.
        scenario: Batch, prompt and generated tokens.
        device: Where they run; the models are moved there.
        clock: "wall", or on a CPU "cpu": processor seconds, which other work hardly disturbs.
        most: Maximum number of rounds.
    """
    runs = [_Replies(model.to(device), scenario, clock) for model in (parent, child)]
    rows: _Rows = {PREFILL: [], DECODE: []}
    error, turn = math.inf, 0
    with Count("speed", "reply", 2 * (1 + most)) as bar:
        for run in runs:
            run.warm_up()
            bar.update(note="warm-up")
        for turn in range(1, 1 + most):
            phases = (PREFILL, DECODE) if turn <= LEAST_ROUNDS else (_least_certain(rows, runs),)
            pairs: dict[str, list[float]] = {phase: [] for phase in phases}
            for run in runs:
                for phase in phases:
                    pairs[phase].append(run.seconds(phase))
                bar.update(note=f"round {turn}")
            for phase, (one, other) in pairs.items():
                rows[phase].append((one, other))
            if turn >= LEAST_ROUNDS:
                error = math.hypot(*_errors(rows).values())
                if error <= GOAL:
                    break
    seconds = {}
    for phase, timed in rows.items():
        median = statistics.median(one for one, _ in timed)
        seconds[phase] = (median, median * statistics.median(other / one for one, other in timed))
    replies = [run.reply(seconds[PREFILL][at], seconds[DECODE][at]) for at, run in enumerate(runs)]
    return Pair(parent=replies[0], child=replies[1], ratio_error=error, rounds=turn)


def reply_steps(seconds: float, scenario: Scenario) -> int:
    """Returns how many decode steps of a whole model, of so many seconds each, are timed together.

    Example:
        >>> reply_steps(0.5, Scenario()), reply_steps(0.001, Scenario())
        (1, 8)
    """
    return min(steps_together(seconds, STEP_SECONDS), scenario.generated_tokens)


_Rows = dict[str, list[tuple[float, float]]]


def _errors(rows: _Rows) -> dict[str, float]:
    """Returns by how much each phase makes the ratio of all seconds uncertain, relative to it."""
    means = {phase: statistics.fmean(map(sum, timed)) for phase, timed in rows.items()}
    return {
        phase: means[phase]
        / sum(means.values())
        * standard_error([math.log(other / one) for one, other in timed])
        for phase, timed in rows.items()
    }


def _least_certain(rows: _Rows, runs: Sequence[_Replies]) -> str:
    """Returns the phase that adds most to the error for each second that timing it takes."""
    errors = _errors(rows)
    return max(errors, key=lambda phase: errors[phase] ** 2 / sum(r.spent[phase] for r in runs))


class _Replies:
    """One model in one scenario."""

    def __init__(self, model: Any, scenario: Scenario, clock: str) -> None:
        self.model, self.scenario, self.clock = model, scenario, clock
        size = (scenario.batch, scenario.sequence_tokens)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(1, model.config.vocab_size, size, generator=generator)
        self.tokens = tokens.to(model.device)
        self.steps = 1
        self.spent = {PREFILL: 0.0, DECODE: 0.0}  # seconds that timing each phase took last
        self.cached_bytes = 0

    def warm_up(self) -> None:
        """Runs what is timed, but for prompts on a CPU, where decoding warms up what they need."""
        if self.model.device.type != "cpu":
            self.seconds(PREFILL)
        self.seconds(DECODE)

    def seconds(self, phase: str) -> float:
        """Returns the seconds of prefill, or of decoding the whole reply."""
        start = time.perf_counter()
        seconds = self._prefill() if phase == PREFILL else self._decode()
        self.spent[phase] = time.perf_counter() - start
        return seconds

    def _prefill(self) -> float:
        length = self.scenario.prompt_tokens
        seconds, held = generate_seconds(self.model, self.tokens[:, :length], 1, self.clock)
        self.cached_bytes = held * self.scenario.sequence_tokens // length
        return max(seconds, SHORTEST)

    def _decode(self) -> float:
        step = max(mean_step([self._step(n) for n in contexts(self.scenario)]), SHORTEST)
        self.steps = reply_steps(step, self.scenario)
        return step * self.scenario.generated_tokens

    def _step(self, cached: int) -> float:
        """Returns the seconds of one decode step with `cached` tokens in the cache at first."""
        prompt = self.tokens[:, : cached + 1]
        watch = _TokenTimes(_clock(self.clock))
        _generate(self.model, prompt, 1 + self.steps, self._cache(cached), watch)
        return (watch.times[-1] - watch.times[0]) / self.steps

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
    now = _clock(clock)
    _wait(prompt_BL.device)
    start = now()
    output = _generate(model, prompt_BL, tokens, cache)
    _wait(prompt_BL.device)
    seconds = now() - start
    return seconds, _cache_bytes(getattr(output, "past_key_values", None))


class _TokenTimes(StoppingCriteria):
    """Notes when each token is there; it stops nothing."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **options: Any) -> torch.Tensor:
        _wait(input_ids.device)
        self.times.append(self.now())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _generate(
    model: Any,
    prompt_BL: torch.Tensor,
    tokens: int,
    cache: DynamicCache | None,
    watch: StoppingCriteria | None = None,
) -> Any:
    """Returns what greedy `generate()` does, with so many tokens for each prompt."""
    known = {} if cache is None else {"past_key_values": cache}
    watched = {} if watch is None else {"stopping_criteria": StoppingCriteriaList([watch])}
    return model.generate(
        prompt_BL,
        attention_mask=torch.ones_like(prompt_BL),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        **known,
        **watched,
    )


def _clock(name: str) -> Callable[[], float]:
    return time.process_time if name == "cpu" else time.perf_counter


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
