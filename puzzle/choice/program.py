"""The choice problem that scores, costs and constraints make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from puzzle.costs.checked import usable_blocks
from puzzle.costs.columns import block_columns, fixed_columns, layout_columns
from puzzle.costs.protocol import CostModel
from puzzle.errors import DataError
from puzzle.limits.constraints import Constraint, parse_constraints
from puzzle.limits.requirements import SCORE, Column, Term, limits, objective, requirements
from puzzle.limits.scenario import Scenario
from search_space import Block, Layout, ModelShape
from solvers import ChoiceProblem

if TYPE_CHECKING:
    from puzzle.scoring.scores import Scores


def choice_problem(
    costs: CostModel,
    shape: ModelShape,
    rows: Sequence[Sequence[Block]],
    columns: Iterable[Column],
    *,
    goal: Column,
    scores: Scores | None = None,
) -> ChoiceProblem:
    """Returns the problem of choosing one block per layer among those that can run.

    Args:
        costs: What the blocks cost.
        shape: The parent's sizes.
        rows: The blocks of each layer, as `usable_blocks` returns them.
        columns: The resources of the problem.
        goal: The column whose sum is minimised.
        scores: A score for every block; without them each is 0.
    """
    shown = tuple(columns)
    score = None if scores is None else lambda layer, block: scores.kl(layer, block.label)
    values = block_columns(costs, rows, {c.name: c for c in (goal, *shown)}.values(), score=score)
    return ChoiceProblem(
        tuple(tuple(block.label for block in row) for row in rows),
        values[goal.name],
        {column.name: values[column.name] for column in shown},
        offsets=fixed_columns(costs, shape, shown),
    )


def program_of(
    scores: Scores,
    costs: CostModel,
    shape: ModelShape,
    scenario: Scenario,
    constraints: str | Iterable[str | Constraint] = (),
) -> ChoiceProblem:
    """Returns the problem of choosing one scored block per layer.

    Blocks that cannot run in the scenario, whose costs are infinite, are left out.

    Args:
        scores: A score for every block that may be chosen.
        costs: What the blocks cost.
        shape: The parent's sizes.
        scenario: The scenario of the costs.
        constraints: Such as "throughput >= 1.25x"; multiples are of the parent's.

    Raises:
        DataError: The scores are of a different number of layers.
        ConstraintError: A constraint cannot be read or does not apply, or no block of some layer
            can run.
    """
    if len(scores) != shape.layers:
        raise DataError(f"scores of {len(scores)} layers for a parent of {shape.layers}")
    known = dict(costs.resources)
    required = requirements(parse_constraints(constraints, resources=known), scenario)
    plain = [Column(name, (Term(1.0, name, scenario),)) for name in known]
    columns = tuple({c.name: c for c in (*plain, *(r.column for r in required))}.values())
    scored = [tuple(map(Block.from_label, row)) for row in scores.layers]
    problem = choice_problem(
        costs,
        shape,
        usable_blocks(costs, scored, {term.scenario for c in columns for term in c.terms}),
        columns,
        goal=objective(SCORE, scenario),
        scores=scores,
    )
    parent = layout_columns(costs, Layout.parent(shape), columns)
    return problem.with_limits(limits(required, parent))
