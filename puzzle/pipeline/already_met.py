"""Constraints that the parent meets as it is, which are often not what was meant."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from puzzle.choice.goals import Goals
from puzzle.limits.quantities import readable, shortest
from puzzle.limits.requirements import SCORE, Requirement

# Multiples of the parent's that people write; 2 tokens/s is hardly ever one that they want.
_LARGEST_MULTIPLE = 16.0
logger = logging.getLogger(__name__)


def warn_of_met(goals: Goals) -> None:
    """Warns, before anything long runs, of constraints that the parent itself meets.

    One of several may well be met already. All of them make the parent the answer, and a number
    without a unit that looks like a multiple of the parent's is likely to be one.

    Args:
        goals: The constraints, with the parent's totals.
    """
    required = [r for r in goals.required if r.constraint.resource != SCORE]
    met = [requirement for requirement in required if _is_met(requirement, goals.parent)]
    for requirement in met:
        if (meant := _meant(requirement)) is not None:
            logger.warning(
                "the parent already meets '%s': it has %s; if a multiple of the parent's was "
                "meant, write '%s'",
                requirement.constraint,
                _amount(requirement, goals.parent),
                meant,
            )
    if met and len(met) == len(required) and goals.goal.name == SCORE:
        logger.warning(
            "the parent already meets every constraint: %s. Nothing has to be removed, so this "
            "search gives back the parent or a layout very close to it; ask for more",
            "; ".join(
                f"'{each.constraint}' (it has {_amount(each, goals.parent)})" for each in met
            ),
        )


def _is_met(requirement: Requirement, parent: Mapping[str, float]) -> bool:
    limit = requirement.limit(parent)
    total = parent[requirement.column.name]
    return total >= limit.bound if limit.at_most is None else total <= limit.bound


def _meant(requirement: Requirement) -> str | None:
    """Returns the constraint with an x behind its number, where that is likely to be meant."""
    constraint = requirement.constraint
    if constraint.relative or not constraint.quantity.bare:
        return None
    if constraint.relation == ">=" and not 1 < constraint.value <= _LARGEST_MULTIPLE:
        return None
    if constraint.relation == "<=" and not constraint.value < 1:
        return None
    scenario = f"({constraint.scenario})" if constraint.scenario else ""
    number = shortest(constraint.value)
    return f"{constraint.resource}{scenario} {constraint.relation} {number}x{constraint.where}"


def _amount(requirement: Requirement, parent: Mapping[str, float]) -> str:
    constraint = requirement.constraint
    total = requirement.amount(parent[requirement.column.name])
    return readable(constraint.quantity, total, constraint.relation)
