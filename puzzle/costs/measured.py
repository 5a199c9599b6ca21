"""Costs measured on the device at hand, one distinct sublayer shape at a time."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import DynamicCache

from puzzle.child import PuzzleForCausalLM, config_from_layout
from puzzle.costs.device import device_record
from puzzle.costs.model import RESOURCES, counted_cost
from puzzle.errors import ConstraintError
from puzzle.parents import Parent
from puzzle.scenario import Scenario
from puzzle.workspace import Workspace
from search_space import FFN, Attention, Block, Layout, ModelShape, SearchSpace, counting

WARM_UP, ROUNDS = 1, 7
NOTHING = Block(Attention("none"), FFN("none"))


class MeasuredCosts:
    """Seconds of each distinct sublayer, timed inside a stack as deep as the model.

    A stack of as many copies as the model has layers, each with weights of its own, reads its
    weights from where the real model does; one copy timed over and over would sit in the
    processor's cache. All shapes are timed in turn, round after round, and the median is taken,
    so that a slow spell of the machine falls on all of them.

    Args:
        shape: The parent's sizes.
        seconds: For "fixed" and each sublayer label, the medians of one prefill and of one
            decode step, in seconds per layer.
        spread: For each of those, the interquartile range as a share of the median.
    """

    resources: Mapping[str, str] = RESOURCES

    def __init__(
        self,
        shape: ModelShape,
        seconds: Mapping[str, Mapping[str, float]],
        spread: Mapping[str, Mapping[str, float]],
    ) -> None:
        self.shape, self.seconds, self.spread = shape, seconds, spread

    @classmethod
    def measure(
        cls,
        parent: Parent,
        space: SearchSpace,
        scenario: Scenario,
        *,
        workspace: Workspace,
        extra: Iterable[Block] = (),
    ) -> MeasuredCosts:
        """Times every sublayer of a space on this device, or reads what was timed before.

        Args:
            parent: The parent.
            space: Whose sublayers are timed.
            scenario: Batch and lengths.
            workspace: Where the times are stored.
            extra: Further blocks to time, such as the fused ones of
                `search_space.fusion.candidate_runs`; they may be wider than the parent's.

        Raises:
            ConstraintError: The scenario stores the KV cache in another type than the weights,
                which torch does not do.
        """
        if scenario.cache_bytes != scenario.weight_bytes:
            raise ConstraintError(
                f"cache_dtype={scenario.cache_dtype!r} with weight_dtype="
                f"{scenario.weight_dtype!r} cannot be measured with torch, whose cache has the "
                "type of the weights; leave cache_dtype out or pass a cost_model of your own"
            )
        blocks = _sublayers(space, extra)
        config = config_from_layout(parent.config, Layout.parent(parent.shape))
        spec = {
            "device": device_record(),
            "scenario": scenario.to_dict(),
            "config": config.to_json_string(),
            "sublayers": sorted(blocks),
            "rounds": ROUNDS,
        }

        def build(directory: Path) -> None:
            samples = _time_all(parent, blocks, scenario)
            (directory / "seconds.json").write_text(json.dumps(samples), encoding="utf-8")

        artifact = workspace.get_or_build("costs", spec, build)
        samples = artifact.load_json("seconds.json")
        return cls(
            parent.shape,
            {k: {p: statistics.median(t) for p, t in v.items()} for k, v in samples.items()},
            {k: {p: _spread(t) for p, t in v.items()} for k, v in samples.items()},
        )

    def _timed(self, label: str, scenario: Scenario) -> dict[str, float]:
        prefill = self.seconds[label]["prefill"]
        decode = self.seconds[label]["decode"] * scenario.generated_tokens
        return {
            "prefill_seconds": prefill,
            "decode_seconds": decode,
            "seconds": prefill + decode,
        }

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> dict[str, float]:
        """Returns what one block takes; the same in every layer."""
        total = counted_cost(self.shape, block, scenario)
        for part in _parts(block):
            for name, value in self._timed(part, scenario).items():
                total[name] = total.get(name, 0.0) + value
        return {name: total.get(name, 0.0) for name in RESOURCES}

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
        """Returns what embedding, masks, rotary tables, final norm and head take."""
        parameters = float(counting.fixed_parameters(shape))
        return {
            **self._timed("fixed", scenario),
            "memory": parameters * scenario.weight_bytes,
            "kv_cache": 0.0,
            "parameters": parameters,
        }


def _parts(block: Block) -> list[str]:
    """Returns the labels of the two sublayers of a block, each as a block of its own."""
    halves = (Block(block.attention, NOTHING.ffn), Block(NOTHING.attention, block.ffn))
    return [half.label for half in halves if half != NOTHING]


def _sublayers(space: SearchSpace, extra: Iterable[Block]) -> dict[str, Block]:
    own = (block for layer in range(space.shape.layers) for block in space.blocks(layer))
    labels = {part for block in chain(own, extra) for part in _parts(block)}
    return {label: Block.from_label(label) for label in labels}


def _spread(samples: list[float]) -> float:
    low, _, high = statistics.quantiles(samples, n=4)
    return (high - low) / statistics.median(samples)


@torch.no_grad()
def _time_all(
    parent: Parent, blocks: Mapping[str, Block], scenario: Scenario
) -> dict[str, dict[str, list[float]]]:
    jobs: dict[str, Callable[[], dict[str, float]]] = {"fixed": _fixed_job(parent, scenario)}
    for label in sorted(blocks):
        jobs[label] = _stack_job(parent, blocks[label], scenario)
    samples: dict[str, dict[str, list[float]]] = {
        label: {"prefill": [], "decode": []} for label in jobs
    }
    for turn in tqdm(range(WARM_UP + ROUNDS), desc="costs", unit="round"):
        for label, job in jobs.items():
            for phase, seconds in job().items():
                if turn >= WARM_UP:
                    samples[label][phase].append(seconds)
    return samples


def _model(parent: Parent, block: Block) -> PuzzleForCausalLM:
    """Returns a child with the same block in all layers and random weights.

    A block wider than the parent's comes in as many copies as take no more than the parent.
    """
    members = -(-(block.ffn.width or 0) // parent.shape.ffn_width)
    depth = max(2, parent.shape.layers // max(1, members))
    layout = Layout(replace(parent.shape, layers=depth), (block,) * depth)
    before = torch.get_default_dtype()
    torch.set_default_dtype(parent.dtype)
    try:
        return PuzzleForCausalLM(config_from_layout(parent.config, layout)).eval()
    finally:
        torch.set_default_dtype(before)


def _clock(run: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def _fixed_job(parent: Parent, scenario: Scenario) -> Callable[[], dict[str, float]]:
    model = _model(parent, NOTHING)
    prompt = torch.zeros(scenario.batch, scenario.prompt_tokens, dtype=torch.long)

    def run() -> dict[str, float]:
        return {
            "prefill": _clock(lambda: model(prompt, logits_to_keep=1).logits.argmax(-1), 1),
            "decode": _clock(lambda: model(prompt[:, :1], logits_to_keep=1).logits.argmax(-1), 8),
        }

    return run


def _stack_job(parent: Parent, block: Block, scenario: Scenario) -> Callable[[], dict[str, float]]:
    model = _model(parent, block)
    layers, config = model.model.layers, model.config
    depth, length = len(layers), scenario.prompt_tokens + scenario.generated_tokens // 2
    generator = torch.Generator().manual_seed(0)
    shape = (scenario.batch, length, parent.shape.hidden)
    x_BLD = torch.randn(shape, generator=generator).to(parent.dtype)
    cos, sin = (table.to(parent.dtype) for table in parent.rope(length + 1))

    def forward(x: torch.Tensor, cache: DynamicCache, start: int) -> None:
        rope = (cos[:, start : start + x.shape[1]], sin[:, start : start + x.shape[1]])
        for layer in layers:
            x = layer(x, attention_mask=None, position_embeddings=rope, past_key_values=cache)

    def run() -> dict[str, float]:
        prompt = x_BLD[:, : scenario.prompt_tokens]
        prefill = _clock(lambda: forward(prompt, DynamicCache(config=config), 0), 1)
        cache = DynamicCache(config=config)
        forward(x_BLD, cache, 0)
        decode = _clock(lambda: forward(x_BLD[:, :1], cache, length), 8)
        return {"prefill": prefill / depth, "decode": decode / depth}

    nn.Module.requires_grad_(model, False)
    return run
