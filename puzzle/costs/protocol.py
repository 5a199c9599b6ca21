"""The CostModel protocol, and the resources that have a fixed meaning."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from puzzle.limits.scenario import Scenario
from search_space import Block, ModelShape, counting

__all__ = ["RESOURCES", "STANDARD_UNITS", "CostModel", "activation_bytes", "counted_cost"]

RESOURCES: Mapping[str, str] = MappingProxyType(
    {
        "prefill_seconds": "s",
        "decode_seconds": "s",
        "seconds": "s",
        "memory": "bytes",
        "kv_cache": "bytes",
        "parameters": "parameters",
    }
)
"""The resources of every built-in model of time, each with its unit."""

STANDARD_UNITS: Mapping[str, str] = MappingProxyType(
    {**RESOURCES, "peak_memory": "bytes", "flops": "FLOP", "energy": "J"}
)
"""Every resource whose name has a fixed meaning, and so a fixed unit."""


class CostModel(Protocol):
    """How much of each resource a block takes, and everything outside the blocks.

    A layout costs the fixed cost plus the sum over its blocks. The set of resources is open: a
    model may name any, each with a unit ("cycles" in "cycles"), and those can be constrained
    and minimised. Only the names of `STANDARD_UNITS` have a fixed meaning. All amounts are for
    the whole scenario: every prompt read and every reply generated, once.

    A block that cannot run in the scenario, for lack of memory say, costs `math.inf` of some
    resource and is never chosen.

    Attributes:
        resources: Unit of each resource, by name.

    Example:
        >>> class Cycles:
        ...     resources = {"cycles": "cycles"}
        ...     def block_cost(self, layer, block, scenario):
        ...         return {"cycles": 0.1 * (block.ffn.width or 0) * scenario.total_tokens}
        ...     def fixed_cost(self, shape, scenario):
        ...         return {"cycles": 0.0}
    """

    @property
    def resources(self) -> Mapping[str, str]:
        """Unit of each resource, by name."""
        ...

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> Mapping[str, float]:
        """Returns the cost of one block in the scenario, by resource."""
        ...

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> Mapping[str, float]:
        """Returns the fixed cost in the scenario, by resource."""
        ...


def activation_bytes(shape: ModelShape, scenario: Scenario, devices: int = 1) -> float:
    """Returns the bytes of the widest activations of a prompt, and of one position's logits.

    Residual stream, its norm, queries, and the gate and up channels of the widest FFN: what is
    in memory at once where each layer's activations are freed before the next one's.

    Args:
        shape: The parent's sizes.
        scenario: Batch, prompt and number format.
        devices: Number of devices that the heads and channels are spread over.
    """
    inner = (shape.heads * shape.head_dim + 2 * shape.ffn_width) / devices
    width = 2 * shape.hidden + inner
    activations = scenario.batch * scenario.prompt_tokens * width * scenario.weight_bytes
    return activations + 4.0 * scenario.batch * shape.vocab


def counted_cost(shape: ModelShape, block: Block, scenario: Scenario) -> dict[str, float]:
    """Returns memory, KV cache and parameters of a block: bytes, bytes and a count."""
    parameters = counting.block_parameters(shape, block)
    tokens = scenario.sequence_tokens
    cache = scenario.batch * counting.block_kv_bytes(shape, block, tokens, scenario.cache_bytes)
    return {
        "memory": counting.block_weight_bytes(shape, block, scenario.weight_bytes) + cache,
        "kv_cache": float(cache),
        "parameters": float(parameters),
    }
