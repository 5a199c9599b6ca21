"""What is timed: stacks of one sublayer, as deep as the model, and the model without layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

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
STEPS = 8  # decode steps timed together, since one alone is short


def contexts(scenario: Scenario) -> tuple[int, ...]:
    """Returns the numbers of cached tokens at which decoding is timed: start, middle, end."""
    start, end = scenario.prompt_tokens, scenario.sequence_tokens - 1
    return tuple(sorted({start, (start + end) // 2, end}))


def mean_step(times: Sequence[tuple[int, float]], scenario: Scenario) -> float:
    """Returns the mean seconds of a decode step over a reply, interpolated between contexts.

    Args:
        times: Pairs of context and seconds, by ascending context.
        scenario: Its reply is decoded at prompt_tokens, prompt_tokens + 1, ... cached tokens.

    Example:
        >>> scenario = Scenario(prompt_tokens=10, generated_tokens=3)
        >>> mean_step([(10, 1.0), (12, 3.0)], scenario)
        2.0
    """
    steps = np.arange(scenario.prompt_tokens, scenario.sequence_tokens)
    at, seconds = zip(*times, strict=True)
    return float(np.interp(steps, at, seconds).mean())


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
    depth = stack_depth(parent.shape, NOTHING)
    model = _model(parent, NOTHING, scenario, device, depth, devices)
    size = (scenario.batch, scenario.prompt_tokens)
    prompt = torch.zeros(size, dtype=torch.long, device=device)

    def forward(tokens: torch.Tensor) -> None:
        model(tokens, logits_to_keep=1).logits.argmax(-1)

    step = _graphed(lambda: forward(prompt[:, :1]), watch)
    return lambda: {
        "prefill": watch.seconds(lambda: forward(prompt)),
        "decode": watch.seconds(step, STEPS),
    }


def stack_depth(shape: ModelShape, block: Block) -> int:
    """Returns how many copies of a block are timed where memory allows: as many as the model's.

    A block wider than the parent's gets fewer, which take no more than the parent.
    """
    members = -(-(block.ffn.width or 0) // shape.ffn_width)
    return max(2, shape.layers // max(1, members))


def stack_bytes(shape: ModelShape, block: Block, scenario: Scenario, depth: int) -> float:
    """Returns the bytes of a stack: weights, caches at each of its contexts, embedding and head."""
    caches = sum(
        counting.block_kv_bytes(shape, block, length, scenario.cache_bytes)
        for length in contexts(scenario)
    )
    weights = counting.block_parameters(shape, block) * scenario.weight_bytes
    fixed = counting.fixed_parameters(shape) * scenario.weight_bytes
    return fixed + depth * (weights + scenario.batch * caches)


def depth_within(shape: ModelShape, block: Block, scenario: Scenario, room: float) -> int:
    """Returns how deep a stack may be in some bytes of memory; two layers in any case."""
    depth, empty = stack_depth(shape, block), stack_bytes(shape, block, scenario, 0)
    one = stack_bytes(shape, block, scenario, 1) - empty
    return depth if one == 0 else int(max(2, min(depth, (room - empty) // one)))


def stack_job(
    parent: Parent,
    block: Block,
    scenario: Scenario,
    device: str,
    watch: Stopwatch,
    depth: int | None = None,
) -> Callable[[], Seconds]:
    """Returns a job that times one block, in seconds per layer.

    Args:
        parent: The parent.
        block: The block.
        scenario: Batch and lengths.
        device: Where it runs.
        watch: What takes the time.
        depth: How many copies; by default `stack_depth`.

    The phases are "prefill", and "decode@n" with n cached tokens; blocks without a cache are
    timed at a single n.
    """
    stack = _Stack(parent, block, scenario, device, depth)
    lengths = contexts(scenario)
    if block.attention.kind != "gqa":
        lengths = lengths[:1]
    # A graph is tied to its cache, so on a GPU there is one of each per context.
    steps = {n: _graphed(stack.step(n), watch) for n in lengths} if watch.cuda else {}

    def run() -> Seconds:
        seconds = {"prefill": watch.seconds(stack.prefill) / stack.depth}
        for n in lengths:
            step = steps.get(n) or stack.step(n)
            seconds[f"decode@{n}"] = watch.seconds(step, STEPS) / stack.depth
        return seconds

    return run


class _Stack:
    """Copies of a block one after the other, each with weights and a cache of its own."""

    def __init__(
        self,
        parent: Parent,
        block: Block,
        scenario: Scenario,
        device: str,
        depth: int | None = None,
    ) -> None:
        depth = depth or stack_depth(parent.shape, block)
        self.model = _model(parent, block, scenario, device, depth)
        self.layers = self.model.model.layers
        self.depth, self.block, self.scenario = len(self.layers), block, scenario
        self.head_dim, dtype = parent.shape.head_dim, self.model.dtype
        generator = torch.Generator().manual_seed(0)
        shape = (scenario.batch, scenario.prompt_tokens, parent.shape.hidden)
        self.x_BLD = torch.randn(shape, generator=generator).to(device, dtype)
        rope = parent.rope(scenario.sequence_tokens + 1)
        self.family = parent.family
        self.rope = map_rope(rope, lambda table: table.to(device, dtype))

    def _forward(self, x_BLD: torch.Tensor, cache: DynamicCache, start: int) -> None:
        end = start + x_BLD.shape[1]
        rope = map_rope(self.rope, lambda table: table[:, start:end])
        for layer in self.layers:
            inputs = self.family.inputs(layer, x_BLD, rope)
            x_BLD = layer(x_BLD, past_key_values=cache, **inputs)

    def prefill(self) -> None:
        self._forward(self.x_BLD, DynamicCache(config=self.model.config), 0)

    def step(self, cached: int) -> Callable[[], None]:
        """Returns a decode step with `cached` tokens in the cache at first."""
        cache = DynamicCache(config=self.model.config)
        if self.block.attention.kind == "gqa":
            size = (self.scenario.batch, self.block.attention.kv_heads or 0, cached, self.head_dim)
            for index in range(self.depth):
                keys = self.x_BLD.new_zeros(size)
                cache.update(keys, keys.clone(), index)
        x_BLD = self.x_BLD[:, :1]
        if (
            self.block.attention.kind in MIXERS
        ):  # its state is as large after one token as after all
            self._forward(x_BLD, cache, 0)
        return lambda: self._forward(x_BLD, cache, cached)


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
    parent: Parent, block: Block, scenario: Scenario, device: str, depth: int, devices: int = 1
) -> PuzzleForCausalLM:
    """Returns a child with the same block in all of its layers and random weights."""
    layout = with_blocks(parent.shape, (block,) * depth)
    config = config_from_layout(parent.config, layout)
    if devices > 1:
        config.vocab_size, config.pad_token_id = -(-config.vocab_size // devices), None
    model = random_model(config, scenario.served_dtype, device)
    # Weights keep requires_grad, as in any model that is loaded and generates: without it torch
    # copies the whole output head to multiply it with a prompt's last position.
    return model
