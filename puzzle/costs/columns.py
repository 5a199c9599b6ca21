"""The columns of the program: what each block, and everything else, adds to each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from puzzle.costs.checked import checked_block_cost, checked_fixed_cost
from puzzle.costs.protocol import CostModel
from puzzle.errors import CostModelError
from puzzle.limits.requirements import SCORE, Column
from puzzle.limits.scenario import Scenario
from search_space import Block, Layout, ModelShape

__all__ = ["block_columns", "check_columns", "fixed_columns", "layout_columns"]

FloatArray = npt.NDArray[np.float64]
Score = Callable[[int, Block], float]


def check_columns(costs: CostModel, columns: Iterable[Column]) -> None:
    """Raises CostModelError if a column needs a resource that the cost model lacks."""
    for column in columns:
        lacking = sorted({t.resource for t in column.terms} - set(costs.resources) - {SCORE})
        if lacking:
            raise CostModelError(
                f"{column.name} needs {', '.join(lacking)}, which {type(costs).__name__} does "
                f"not give; it gives {', '.join(costs.resources)}"
            )


def block_columns(
    costs: CostModel,
    rows: Sequence[Sequence[Block]],
    columns: Iterable[Column],
    *,
    score: Score | None = None,
) -> dict[str, FloatArray]:
    """Returns each column, one value for every block of every layer, in order.

    Args:
        costs: The cost model.
        rows: The blocks of each layer, such as `usable_blocks` returns.
        columns: The columns wanted.
        score: KL of a block in a layer, for columns made of it; without it they are 0.

    Raises:
        CostModelError: A cost is missing or not a number; the message names the block.
    """
    wanted = tuple(columns)
    check_columns(costs, wanted)
    by_column: dict[str, list[float]] = {column.name: [] for column in wanted}
    for layer, blocks in enumerate(rows):
        for block in blocks:
            kl = score(layer, block) if score else 0.0

            def cost(scenario: Scenario, at: int = layer, one: Block = block) -> dict[str, float]:
                return checked_block_cost(costs, at, one, scenario)

            for name, value in _values(wanted, cost, kl).items():
                by_column[name].append(value)
    return {name: np.array(values, dtype=np.float64) for name, values in by_column.items()}


def fixed_columns(
    costs: CostModel, shape: ModelShape, columns: Iterable[Column]
) -> dict[str, float]:
    """Returns the fixed part of each column, the same whatever the blocks are.

    Raises:
        CostModelError: As for `block_columns`.
    """
    wanted = tuple(columns)
    check_columns(costs, wanted)
    return _values(wanted, lambda scenario: checked_fixed_cost(costs, shape, scenario), 0.0)


def layout_columns(
    costs: CostModel, layout: Layout, columns: Iterable[Column], *, score: Score | None = None
) -> dict[str, float]:
    """Returns the total of each column for a whole layout, such as the parent's.

    Raises:
        CostModelError: As for `block_columns`.
    """
    wanted = tuple(columns)
    total = fixed_columns(costs, layout.shape, wanted)
    rows = [(block,) for block in layout.blocks]
    for name, values in block_columns(costs, rows, wanted, score=score).items():
        total[name] += float(values.sum())
    return total


def _values(
    columns: Sequence[Column], cost: Callable[[Scenario], dict[str, float]], kl: float
) -> dict[str, float]:
    priced: dict[Scenario, dict[str, float]] = {}
    totals = {}
    for column in columns:
        total = 0.0
        for term in column.terms:
            if term.resource == SCORE:
                total += term.factor * kl
                continue
            if term.scenario not in priced:
                priced[term.scenario] = cost(term.scenario)
            total += term.factor * priced[term.scenario][term.resource]
        totals[column.name] = total
    return totals
