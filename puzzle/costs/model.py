"""The CostModel protocol, and the cost of a whole layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from puzzle.scenario import Scenario
from search_space import Block, Layout, ModelShape, counting

RESOURCES = ("prefill_seconds", "decode_seconds", "seconds", "memory", "kv_cache", "parameters")


class CostModel(Protocol):
    """What a block, and what everything else, takes of each resource.

    Attributes:
        resources: Names of the resources; those in `RESOURCES` can be constrained by name.
    """

    resources: tuple[str, ...]

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> Mapping[str, float]:
        """Returns what one block takes in the scenario, by resource."""
        ...

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> Mapping[str, float]:
        """Returns what a model takes whatever its blocks are, by resource."""
        ...


def layout_cost(costs: CostModel, layout: Layout, scenario: Scenario) -> dict[str, float]:
    """Returns what a whole layout takes, by resource."""
    total = dict(costs.fixed_cost(layout.shape, scenario))
    for layer, block in enumerate(layout.blocks):
        for name, value in costs.block_cost(layer, block, scenario).items():
            total[name] = total.get(name, 0.0) + value
    return total


def counted_cost(shape: ModelShape, block: Block, scenario: Scenario) -> dict[str, float]:
    """Returns memory, KV cache and parameters of a block: bytes, bytes and a count."""
    parameters = counting.block_parameters(shape, block)
    per_token = counting.block_kv_bytes_per_token(shape, block, scenario.cache_bytes)
    cache = scenario.batch * (scenario.prompt_tokens + scenario.generated_tokens) * per_token
    return {
        "memory": float(parameters * scenario.weight_bytes + cache),
        "kv_cache": float(cache),
        "parameters": float(parameters),
    }
