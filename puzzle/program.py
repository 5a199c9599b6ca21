"""The choice problem that scores, costs and constraints make."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from puzzle.constraints import Constraint, parse_constraints
from puzzle.costs import CostModel, layout_cost
from puzzle.errors import DataError
from puzzle.requirements import to_limits
from puzzle.scenario import Scenario
from puzzle.scoring import Scores
from search_space import Block, Layout, ModelShape
from solvers import ChoiceProblem


def program_of(
    scores: Scores,
    costs: CostModel,
    shape: ModelShape,
    scenario: Scenario,
    constraints: str | Iterable[str | Constraint] = (),
) -> ChoiceProblem:
    """Returns the problem of choosing one scored block per layer.

    Args:
        scores: A score for every block that may be chosen.
        costs: What the blocks cost.
        shape: The parent's sizes.
        scenario: The scenario of the costs.
        constraints: Such as "throughput >= 1.25x"; multiples are of the parent's.

    Raises:
        DataError: The scores are of another number of layers.
        ConstraintError: A constraint cannot be read or does not apply.
    """
    if len(scores) != shape.layers:
        raise DataError(f"scores of {len(scores)} layers for a parent of {shape.layers}")
    groups, columns = [], {name: list[float]() for name in costs.resources}
    for layer, row in enumerate(scores.layers):
        groups.append(tuple(row))
        for label in row:
            cost = costs.block_cost(layer, Block.from_label(label), scenario)
            for name, column in columns.items():
                column.append(cost[name])
    parent = layout_cost(costs, Layout.parent(shape), scenario)
    return ChoiceProblem(
        tuple(groups),
        np.array([score.kl for _, _, score in scores.items()]),
        {name: np.array(column) for name, column in columns.items()},
        offsets={name: costs.fixed_cost(shape, scenario)[name] for name in columns},
        limits=to_limits(parse_constraints(constraints), parent=parent, scenario=scenario),
    )
