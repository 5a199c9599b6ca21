"""The choice problem that scores, costs and constraints make."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from puzzle.costs.columns import block_columns, fixed_columns, layout_columns
from puzzle.costs.protocol import CostModel
from puzzle.errors import DataError
from puzzle.limits.constraints import Constraint, parse_constraints
from puzzle.limits.requirements import Column, Term, limits, requirements
from puzzle.limits.scenario import Scenario
from puzzle.scoring.scores import Scores
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
    required = requirements(parse_constraints(constraints), scenario)
    plain = [Column(name, (Term(1.0, name, scenario),)) for name in costs.resources]
    columns = list({c.name: c for c in (*plain, *(r.column for r in required))}.values())
    rows = [tuple(map(Block.from_label, row)) for row in scores.layers]
    return ChoiceProblem(
        tuple(map(tuple, scores.layers)),
        np.array([score.kl for _, _, score in scores.items()]),
        block_columns(costs, rows, columns),
        offsets=fixed_columns(costs, shape, columns),
        limits=limits(required, layout_columns(costs, Layout.parent(shape), columns)),
    )
