"""Checked costs of blocks, layouts and spaces: an error names the block it concerns."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from puzzle.costs.answering import block_cost_of, fixed_cost_of, model_name
from puzzle.costs.protocol import STANDARD_UNITS, CostModel
from puzzle.errors import ConstraintError, CostModelError
from puzzle.limits.scenario import Scenario
from search_space import Block, Layout, ModelShape, SearchSpace

__all__ = ["check_resources", "checked_block_cost", "checked_fixed_cost", "layout_cost"]
__all__ += ["usable_blocks"]


def check_resources(costs: CostModel) -> dict[str, str]:
    """Returns the units a model declares, by resource.

    Raises:
        CostModelError: They are not names with units, or a standard name has another unit.
    """
    owner = model_name(costs)
    declared = getattr(costs, "resources", None)
    if not isinstance(declared, Mapping) or not declared:
        raise CostModelError(
            f"{owner}.resources is {declared!r}; give the unit of each resource by name, such as "
            "{'seconds': 's', 'cycles': 'cycles'}"
        )
    for name, unit in declared.items():
        if not isinstance(name, str) or not name.isidentifier() or not isinstance(unit, str):
            raise CostModelError(
                f"{owner}.resources has {name!r}: {unit!r}; names are words of letters, digits "
                "and _, units are text"
            )
        standard = STANDARD_UNITS.get(name, unit)
        if unit != standard:
            raise CostModelError(
                f"{owner}.resources gives {name!r} in {unit!r}; this name always means "
                f"{standard!r}: convert, or choose a name of your own"
            )
    return dict(declared)


def checked_block_cost(
    costs: CostModel, layer: int, block: Block, scenario: Scenario
) -> dict[str, float]:
    """Returns the cost of one block, in the order in which the model declares its resources.

    Raises:
        CostModelError: A value is missing, undeclared, not a number, NaN or negative, or a model
            of somebody's own raises an exception.
    """
    given = block_cost_of(costs, layer, block, scenario)
    return _checked(costs, given, f"block {block.label} of layer {layer}")


def checked_fixed_cost(costs: CostModel, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
    """Returns the fixed cost: what a model takes whatever its blocks are.

    Raises:
        CostModelError: As for a block, or a value is infinite.
    """
    fixed = _checked(costs, fixed_cost_of(costs, shape, scenario), "the fixed cost")
    for name, value in fixed.items():
        if math.isinf(value):
            raise CostModelError(
                f"{model_name(costs)}: the fixed cost has {name} = inf: no model of this "
                "parent can run in the scenario; make the batch or the lengths smaller"
            )
    return fixed


def _checked(costs: CostModel, given: Any, what: str) -> dict[str, float]:
    owner, declared = model_name(costs), costs.resources
    missing = [name for name in declared if name not in given]
    unknown = [str(name) for name in given if name not in declared]
    if missing or unknown:
        parts = [f"lacks {', '.join(missing)}"] if missing else []
        for name in unknown:
            near = difflib.get_close_matches(name, missing or declared, n=1)
            parts.append(f"has {name!r}" + (f" (is it {near[0]!r}?)" if near else ""))
        raise CostModelError(
            f"{owner}: the cost of {what} {' and '.join(parts)}; return exactly {_names(declared)}"
        )
    return {name: _number(owner, what, name, given[name]) for name in declared}


def _number(owner: str, what: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise CostModelError(f"{owner}: {what} has {name} = {value!r}; give a number")
    number = float(value)
    if math.isnan(number) or number < 0:
        raise CostModelError(
            f"{owner}: {what} has {name} = {number!r}; give a number of 0 or more, or math.inf "
            "for a block that cannot run in the scenario"
        )
    return number


def _names(declared: Iterable[str]) -> str:
    return ", ".join(declared)


def layout_cost(costs: CostModel, layout: Layout, scenario: Scenario) -> dict[str, float]:
    """Returns the cost of a whole layout, by resource.

    Raises:
        CostModelError: The cost model returns an invalid cost; the message names the block.
    """
    total = checked_fixed_cost(costs, layout.shape, scenario)
    for layer, block in enumerate(layout.blocks):
        for name, value in checked_block_cost(costs, layer, block, scenario).items():
            total[name] += value
    return total


def usable_blocks(
    costs: CostModel,
    space: SearchSpace | Sequence[Sequence[Block]],
    scenarios: Scenario | Iterable[Scenario],
) -> tuple[tuple[Block, ...], ...]:
    """Returns, for each layer, the blocks that can run: those owner every cost is finite.

    Args:
        costs: The cost model.
        space: The alternatives, or the blocks of each layer.
        scenarios: One scenario, or several; a block has to run in all of them.

    Raises:
        ConstraintError: No block of some layer can run.
        CostModelError: The cost model returns an invalid cost.
    """
    wanted = (scenarios,) if isinstance(scenarios, Scenario) else tuple(scenarios)
    rows: Sequence[Sequence[Block]]
    if isinstance(space, SearchSpace):
        rows = [space.blocks(layer) for layer in range(space.shape.layers)]
    else:
        rows = space
    usable = []
    for layer, row in enumerate(rows):
        blocks = tuple(
            block
            for block in row
            if all(
                math.isfinite(value)
                for scenario in wanted
                for value in checked_block_cost(costs, layer, block, scenario).values()
            )
        )
        if not blocks:
            raise ConstraintError(
                f"no block of layer {layer} can run: {model_name(costs)} gives all "
                f"{len(row)} of them an infinite cost in "
                f"{', '.join(map(str, wanted))}; make the batch or the lengths smaller"
            )
        usable.append(blocks)
    return tuple(usable)
