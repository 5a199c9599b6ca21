"""What is timed: stacks of one sublayer, too large for caches, and the model without layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from transformers import DynamicCache

from puzzle.hardware.processor_cache import last_cache_bytes
from puzzle.hardware.stopwatch import Seconds, Stopwatch
from puzzle.limits.scenario import Scenario
from puzzle.models.assembling import random_model
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.child_config import config_from_layout
from puzzle.models.parent import Parent
from puzzle.models.rotary_tables import map_rope
from search_space import FFN, Attention, Block, ModelShape, counting
from search_space.blocks import MIXERS
from search_space.fusion import with_blocks

NOTHING = Block(Attention("none"), FFN("none"))
# Decode steps timed together: on a GPU STEPS; on a CPU as few as fill STEP_SECONDS, at most STEPS.
STEPS, STEP_SECONDS = 8, 0.02
# How many times the processor's last cache a stack's weights are, so that a step reads them from
# memory, as that of a whole model does.
DECODE_CACHES, PREFILL_CACHES = 3.0, 1.0
# Of a prompt with so many tokens, reading a weight is a small part of multiplying with it.
MANY_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How many copies of a block are timed.

    Args:
        prefill: With a prompt.
        decode: With one token.

    Example:
        >>> Depth(prefill=3, decode=12).within(8)
        Depth(prefill=3, decode=8)
    """

    prefill: int
    decode: int

    @property
    def most(self) -> int:
        """How many copies there are."""
        return max(astuple(self))

    def within(self, most: int) -> Depth:
        """Returns the same of at most so many copies."""
        return Depth(prefill=min(self.prefill, most), decode=min(self.decode, most))


def contexts(scenario: Scenario) -> tuple[int, ...]:
    """Returns the numbers of cached tokens at which decoding is timed, in ascending order.

    They are the two points of Gauss's rule: the mean over them is the mean over the reply where
    seconds change with the cached tokens as any polynomial of the third degree does, but for
    rounding, and exactly where they change linearly.

    Example:
        >>> contexts(Scenario(prompt_tokens=128, generated_tokens=128))
        (155, 228)
    """
    start, end = scenario.prompt_tokens, scenario.sequence_tokens - 1
    inwards = round((end - start) * (1 - 1 / math.sqrt(3)) / 2)
    return tuple(sorted({start + inwards, end - inwards}))


def mean_step(times: Sequence[float]) -> float:
    """Returns the mean seconds of a decode step over a reply.

    Args:
        times: Seconds at each of the `contexts`, or at one where they do not depend on it.
    """
    return sum(times) / len(times)


def fixed_job(
    parent: Parent, scenario: Scenario, device: str, watch: Stopwatch, devices: int = 1
) -> Callable[[], Seconds]:
    """Returns a job that times embedding, masks, rotary tables, final norm and head.

    Args:
        parent: The parent.
        scenario: Batch and lengths.
        device: Where it runs.
        watch: What takes the time.
        devices: How many devices share the vocabulary.
    """
    vocab = -(-parent.config.vocab_size // devices)
    depth = stack_depth(parent.shape, NOTHING)
    model = _model(parent, NOTHING, scenario, device, depth, vocab)
    size = (scenario.batch, scenario.prompt_tokens)
    prompt = torch.zeros(size, dtype=torch.long, device=device)

    def forward(tokens: torch.Tensor) -> None:
        model(tokens, logits_to_keep=1).logits.argmax(-1)

    step, together = _graphed(lambda: forward(prompt[:, :1]), watch), _Steps(watch)
    return lambda: {
        "prefill": watch.seconds(lambda: forward(prompt)),
        "decode": together.seconds(step),
    }


def stack_depth(shape: ModelShape, block: Block) -> int:
    """Returns how many copies of a block are timed at most: as many as the model has layers.

    A block wider than the parent's gets fewer, which take no more than the parent.
    """
    members = -(-(block.ffn.width or 0) // shape.ffn_width)
    return max(2, shape.layers // max(1, members))


def timed_depth(shape: ModelShape, block: Block, scenario: Scenario, device: str) -> Depth:
    """Returns how many copies of a block are timed where memory allows.

    On a GPU, they are `stack_depth`, as its cache is overwritten between steps. On a CPU, they are
    fewer where fewer are already much larger than its cache; a prompt's many tokens hide most
    of what reading weights takes, so that of these still fewer do.

    Args:
        shape: The parent's sizes.
        block: The block.
        scenario: Batch and lengths.
        device: Where it runs.
    """
    whole = stack_depth(shape, block)
    if torch.device(device).type != "cpu":
        return Depth(prefill=whole, decode=whole)
    weights = counting.block_parameters(shape, block) * scenario.weight_bytes
    cache = counting.block_kv_bytes(shape, block, contexts(scenario)[0], scenario.cache_bytes)
    step = weights + scenario.batch * cache
    decode = _copies(DECODE_CACHES * last_cache_bytes(), step, whole)
    if scenario.batch * scenario.prompt_tokens < MANY_TOKENS:
        return Depth(prefill=decode, decode=decode)
    return Depth(
        prefill=_copies(PREFILL_CACHES * last_cache_bytes(), weights, whole), decode=decode
    )


def _copies(room: float, one: float, most: int) -> int:
    """Returns how many copies fill so many bytes: at least two, at most `most`."""
    return most if room >= one * most else max(2, math.ceil(room / one))


def stack_bytes(shape: ModelShape, block: Block, scenario: Scenario, depth: int) -> float:
    """Returns the bytes of a stack: weights, and caches at each of its contexts."""
    caches = sum(
        counting.block_kv_bytes(shape, block, length, scenario.cache_bytes)
        for length in contexts(scenario)
    )
    weights = counting.block_parameters(shape, block) * scenario.weight_bytes
    return depth * (weights + scenario.batch * caches)


def depth_within(shape: ModelShape, block: Block, scenario: Scenario, room: float) -> int:
    """Returns how deep a stack may be in some bytes of memory; two layers in any case."""
    depth, one = stack_depth(shape, block), stack_bytes(shape, block, scenario, 1)
    return depth if one == 0 else int(max(2, min(depth, room // one)))


def stack_job(
    parent: Parent,
    block: Block,
    scenario: Scenario,
    device: str,
    watch: Stopwatch,
    depth: Depth,
) -> Callable[[], Seconds]:
    """Returns a job that times one block, in seconds per layer.

    Args:
        parent: The parent.
        block: The block.
        scenario: Batch and lengths.
        device: Where it runs.
        watch: What takes the time.
        depth: How many copies.

    The phases are "prefill", and "decode@n" with n cached tokens; blocks without a cache are
    timed at a single n.
    """
    stack = _Stack(parent, block, scenario, device, depth)
    lengths = contexts(scenario)
    if block.attention.kind != "gqa":
        lengths = lengths[:1]
    # A graph is tied to its cache, so on a GPU there is one of each per context.
    steps = {n: _graphed(stack.step(n), watch) for n in lengths} if watch.cuda else {}
    together = _Steps(watch)

    def run() -> Seconds:
        seconds = {"prefill": watch.seconds(stack.prefill) / depth.prefill}
        for n in lengths:
            seconds[f"decode@{n}"] = together.seconds(steps.get(n) or stack.step(n)) / depth.decode
        return seconds

    return run


class _Steps:
    """How many decode steps are timed together: found by the first, which warms up."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch
        self.count = STEPS if watch.cuda else 1

    def seconds(self, step: Callable[[], Any]) -> float:
        """Returns the mean seconds of a step."""
        seconds = self.watch.seconds(step, self.count)
        if not self.watch.cuda:
            self.count = steps_together(seconds)
        return seconds


def steps_together(seconds: float, fill: float = STEP_SECONDS) -> int:
    """Returns how many decode steps of so many seconds each are timed together on a CPU.

    Args:
        seconds: Seconds of a step.
        fill: As few steps as take so many seconds, but at most `STEPS`.

    Example:
        >>> steps_together(0.03), steps_together(0.004), steps_together(0.0001)
        (1, 5, 8)
    """
    return STEPS if seconds * STEPS <= fill else math.ceil(fill / seconds)


class _Stack:
    """Copies of a block one after the other, each with weights and a cache of its own."""

    def __init__(
        self, parent: Parent, block: Block, scenario: Scenario, device: str, depth: Depth
    ) -> None:
        # Neither its embedding nor its head runs.
        self.model = _model(parent, block, scenario, device, depth.most, vocab=1)
        self.layers = self.model.model.layers
        self.depth, self.block, self.scenario = depth, block, scenario
        self.head_dim, dtype = parent.shape.head_dim, self.model.dtype
        generator = torch.Generator().manual_seed(0)
        shape = (scenario.batch, scenario.prompt_tokens, parent.shape.hidden)
        self.x_BLD = torch.randn(shape, generator=generator).to(device, dtype)
        rope = parent.rope(scenario.sequence_tokens + 1)
        self.family = parent.family
        self.rope = map_rope(rope, lambda table: table.to(device, dtype))

    def _forward(self, x_BLD: torch.Tensor, cache: DynamicCache, start: int, depth: int) -> None:
        end = start + x_BLD.shape[1]
        rope = map_rope(self.rope, lambda table: table[:, start:end])
        for layer in self.layers[:depth]:
            inputs = self.family.inputs(layer, x_BLD, rope)
            x_BLD = layer(x_BLD, past_key_values=cache, **inputs)

    def prefill(self) -> None:
        self._forward(self.x_BLD, DynamicCache(config=self.model.config), 0, self.depth.prefill)

    def step(self, cached: int) -> Callable[[], None]:
        """Returns a decode step with `cached` tokens in the cache at first."""
        cache, depth = DynamicCache(config=self.model.config), self.depth.decode
        if self.block.attention.kind == "gqa":
            size = (self.scenario.batch, self.block.attention.kv_heads or 0, cached, self.head_dim)
            for index in range(depth):
                keys = self.x_BLD.new_zeros(size)
                cache.update(keys, keys.clone(), index)
        x_BLD = self.x_BLD[:, :1]
        if (
            self.block.attention.kind in MIXERS
        ):  # its state is as large after one token as after all
            self._forward(x_BLD, cache, 0, depth)
        return lambda: self._forward(x_BLD, cache, cached, depth)


def _graphed(step: Callable[[], Any], watch: Stopwatch) -> Callable[[], Any]:
    """Returns a step captured as a CUDA graph, free of launch overhead; unchanged on a CPU.

    Serving engines decode with CUDA graphs, and with a small batch the launches would otherwise
    dominate the time.
    """
    if not watch.cuda:
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()  # kernels are chosen and workspaces allocated outside the graph
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _model(
    parent: Parent, block: Block, scenario: Scenario, device: str, depth: int, vocab: int
) -> PuzzleForCausalLM:
    """Returns a child with the same block in all of its layers and random weights."""
    layout = with_blocks(parent.shape, (block,) * depth)
    config = config_from_layout(parent.config, layout)
    if vocab != config.vocab_size:
        config.vocab_size, config.pad_token_id = vocab, None
    model = random_model(config, scenario.served_dtype, device)
    # Weights keep requires_grad, as in any model that is loaded and generates: without it torch
    # copies the whole output head to multiply it with a prompt's last position.
    return model
