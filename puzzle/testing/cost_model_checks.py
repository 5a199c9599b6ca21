"""What is checked of a cost model, to run in the tests of whoever wrote it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from puzzle.costs.checked import check_resources, checked_block_cost, checked_fixed_cost
from puzzle.costs.protocol import CostModel, counted_cost
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from search_space import FFN, Attention, Block, ModelShape, SearchSpace

# Between int4 on many devices and float32: an amount in MiB or GB instead of bytes falls outside.
MOST_TIMES_OFF = 1000.0


def check_cost_model(
    costs: CostModel,
    space: SearchSpace | ModelShape,
    scenario: Scenario | None = None,
    *,
    tolerance: float = 0.0,
) -> None:
    """Raises CostModelError unless a cost model can be searched with.

    Every distinct block of the first, a middle and the last layer is tried. The checks are: names
    and units of the resources; that each declared resource has a value, which is finite and 0 or
    more, or infinite for a block that cannot run; that the same call returns the same costs; that
    `seconds` is `prefill_seconds` plus `decode_seconds` and `memory` includes `kv_cache`; where the
    model says `additive = "sublayers"`, that a block costs what its sublayers cost; that a wider
    FFN or more KV heads never cost less; that bytes are bytes and parameters a count; and that not
    every block is free.

    Args:
        costs: The cost model.
        space: The blocks to try, or a shape for those of the preset "default".
        scenario: The scenario to try, by default `Scenario()`.
        tolerance: The share by which measured times may fall while sizes rise, such as 0.1.

    Raises:
        CostModelError: What is wrong, and for which block.

    Example:
        >>> from puzzle.costs import Roofline
        >>> shape = ModelShape(layers=2, hidden=64, heads=4, head_dim=16, kv_heads=2,
        ...                    ffn_width=256, vocab=100)
        >>> check_cost_model(Roofline("h100-sxm", shape), shape)
    """
    space = SearchSpace.preset(space, "default") if isinstance(space, ModelShape) else space
    scenario = scenario or Scenario()
    check_resources(costs)
    fixed = checked_fixed_cost(costs, space.shape, scenario)
    if fixed != checked_fixed_cost(costs, space.shape, scenario):
        raise CostModelError(f"{_name(costs)}: the fixed cost is different each time")
    _check_parts(costs, "the fixed cost", fixed)
    for layer in sorted({0, space.shape.layers // 2, space.shape.layers - 1}):
        row = {b: checked_block_cost(costs, layer, b, scenario) for b in space.blocks(layer)}
        for block, cost in row.items():
            what = f"block {block.label} of layer {layer}"
            if cost != checked_block_cost(costs, layer, block, scenario):
                raise CostModelError(f"{_name(costs)}: {what} costs something different each time")
            _check_parts(costs, what, cost)
            _check_sizes(
                costs,
                what,
                cost,
                counted_cost(space.shape, space.shape.windowed(layer, block), scenario),
            )
            if getattr(costs, "additive", "blocks") == "sublayers":
                _check_sublayers(costs, layer, block, cost, scenario)
        _check_monotone(costs, layer, row, tolerance)
        if not any(value > 0 for cost in row.values() for value in cost.values()):
            raise CostModelError(f"{_name(costs)}: every block of layer {layer} is free")


def _check_parts(costs: CostModel, what: str, cost: Mapping[str, float]) -> None:
    """Raises CostModelError if a total does not agree with its parts."""
    names = ("prefill_seconds", "decode_seconds", "seconds")
    if all(name in cost for name in names):
        prefill, decode, total = (cost[name] for name in names)
        if not _equal(prefill + decode, total):
            raise CostModelError(
                f"{_name(costs)}: {what} has seconds = {total:g}, but prefill_seconds + "
                f"decode_seconds = {prefill + decode:g}"
            )
    if "memory" in cost and cost.get("kv_cache", 0.0) > cost["memory"] * (1 + 1e-9):
        raise CostModelError(
            f"{_name(costs)}: {what} has kv_cache = {cost['kv_cache']:g} but memory = "
            f"{cost['memory']:g}, which includes it"
        )


def _check_sizes(
    costs: CostModel, what: str, cost: Mapping[str, float], counted: Mapping[str, float]
) -> None:
    for name in ("memory", "kv_cache", "parameters"):
        given, expected = cost.get(name, math.inf), counted[name]
        if math.isinf(given) or not (given or expected):
            continue
        off = math.inf if not (given and expected) else max(given / expected, expected / given)
        if off > (1.0 + 1e-9 if name == "parameters" else MOST_TIMES_OFF):
            unit = "a count" if name == "parameters" else "in bytes"
            raise CostModelError(
                f"{_name(costs)}: {what} has {name} = {given:g}, but its sizes give "
                f"{expected:g}; {name} is {unit}"
            )


def _check_sublayers(
    costs: CostModel, layer: int, block: Block, cost: Mapping[str, float], scenario: Scenario
) -> None:
    sublayers = (Block(block.attention, FFN("none")), Block(Attention("none"), block.ffn))
    parts = [checked_block_cost(costs, layer, each, scenario) for each in sublayers]
    for name, value in cost.items():
        total = sum(part[name] for part in parts)
        if not _equal(value, total):
            raise CostModelError(
                f"{_name(costs)}: {name} of block {block.label} of layer {layer} is {value:g}, "
                f"but of its two sublayers {total:g}; it says additive = 'sublayers'"
            )


def _check_monotone(
    costs: CostModel, layer: int, row: Mapping[Block, Mapping[str, float]], tolerance: float
) -> None:
    for smaller, larger in _ordered(row):
        for name, value in row[smaller].items():
            if value > row[larger][name] * (1 + tolerance) * (1 + 1e-9):
                raise CostModelError(
                    f"{_name(costs)}: in layer {layer} {name} of {smaller.label} is {value:g}, "
                    f"more than the {row[larger][name]:g} of the larger {larger.label}; "
                    "if it was measured, give a tolerance"
                )


def _ordered(blocks: Mapping[Block, Mapping[str, float]]) -> Iterator[tuple[Block, Block]]:
    """Pairs that differ in the FFN's width or the KV heads alone, the smaller one first."""
    for one in blocks:
        for other in blocks:
            same_attention, same_ffn = one.attention == other.attention, one.ffn == other.ffn
            wider = (one.ffn.width or 0) < (other.ffn.width or 0) and one.ffn.width is not None
            heads = one.attention.kv_heads is not None
            more = heads and (one.attention.kv_heads or 0) < (other.attention.kv_heads or 0)
            if (same_attention and wider) or (same_ffn and more):
                yield one, other


def _equal(one: float, other: float) -> bool:
    return one == other or math.isclose(one, other, rel_tol=1e-6)


def _name(costs: CostModel) -> str:
    return type(costs).__name__
