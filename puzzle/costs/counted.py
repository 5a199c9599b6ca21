"""Sizes and operations that need no measuring, added to cost models that lack them."""

from __future__ import annotations

from puzzle.costs.answering import block_cost_of, fixed_cost_of
from puzzle.costs.protocol import STANDARD_UNITS, CostModel, activation_bytes, counted_cost
from puzzle.costs.tensor_parallel import TensorParallel
from puzzle.limits.scenario import Scenario
from search_space import Block, ModelShape, counting

__all__ = ["with_counts"]

COUNTED = ("memory", "kv_cache", "parameters", "flops", "peak_memory")


def with_counts(costs: CostModel, shape: ModelShape) -> CostModel:
    """Returns the model with every resource that can be counted, added where the model lacks it.

    These are memory, kv_cache, parameters, flops, and peak_memory: memory plus the widest
    activations of the prompt.

    Args:
        costs: The model; the resources that it gives itself stay as they are.
        shape: The parent's sizes.

    Returns:
        A cost model in which all of these can be constrained.
    """
    return _Counted(costs, shape)


class _Counted:
    """A cost model, completed by what follows from the sizes alone."""

    def __init__(self, costs: CostModel, shape: ModelShape) -> None:
        self.costs, self.shape = costs, shape
        self._added = [name for name in COUNTED if name not in costs.resources]
        self.resources = {**costs.resources, **{n: STANDARD_UNITS[n] for n in self._added}}

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> dict[str, float]:
        limited = self.shape.windowed(layer, block)
        tokens, pairs = scenario.total_tokens, scenario.pairs_within(limited.attention.window)
        flops = counting.block_flops(self.shape, limited, tokens=tokens, pairs=pairs)
        counted = {**counted_cost(self.shape, limited, scenario), "flops": float(flops)}
        own = block_cost_of(self.costs, layer, block, scenario)
        counted["peak_memory"] = own.get("memory", counted["memory"])
        return {**own, **{name: counted[name] for name in self._added}}

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
        parameters = float(counting.fixed_parameters(shape))
        counted = {
            "memory": parameters * scenario.weight_bytes,
            "kv_cache": 0.0,
            "parameters": parameters,
            "flops": float(counting.head_flops(shape) * scenario.decoded_tokens),
        }
        own = fixed_cost_of(self.costs, shape, scenario)
        held = own.get("memory", counted["memory"])
        group = getattr(self.costs, "group", TensorParallel())
        counted["peak_memory"] = held + activation_bytes(shape, scenario, group.devices)
        return {**own, **{name: counted[name] for name in self._added}}
