"""Search for the best choice and check what the solver says against the problem itself."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from dataclasses import dataclass

import numpy as np

from solvers._model import ScaledModel, one_sided, scale_problem
from solvers._pulp import Ending, Outcome, Settings, run_model
from solvers.errors import NoSolutionError
from solvers.problem import ChoiceProblem, Limit

_LOGGER = logging.getLogger(__name__)

# Solvers refuse a limit of zero seconds; a second attempt gets at least this.
_LEAST_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A choice within the limits, in real units."""

    choices: tuple[int, ...]
    bound: float
    proved: bool


def unreachable(problem: ChoiceProblem) -> tuple[Limit, ...]:
    """List the one-sided limits that no choice reaches, even with no other limit.

    Args:
        problem: The problem.

    Returns:
        Those limits, in order.
    """
    broken = []
    for side in one_sided(problem):
        least, greatest = problem.bounds(side.resource)
        best = least if side.at_most is not None else greatest
        if side.slack(best) < -problem.tolerance(side.resource):
            broken.append(side)
    return tuple(broken)


def search(problem: ChoiceProblem, settings: Settings) -> Found | None:
    """Find the best choice within the limits.

    Args:
        problem: The problem.
        settings: Which solver to use, and how.

    Returns:
        The choice, or None if there is none within the limits.

    Raises:
        NoSolutionError: If the solver gave neither a choice nor a proof that there is none.
        SolverError: If the solver itself failed.
    """
    if not problem.limits:
        return _unlimited(problem)
    if unreachable(problem):
        return None
    deadline = time.perf_counter() + (settings.time_limit or 0.0)
    margins: dict[str, float] = {}
    first: tuple[ScaledModel, Outcome] | None = None
    for _ in range(2):
        # A relative gap is a share of the whole objective, so then nothing may be taken off it.
        model = scale_problem(problem, shift_score=settings.gap == 0.0, margins=margins)
        outcome = run_model(model, settings)
        first = first or (model, outcome)
        if outcome.ending is Ending.INFEASIBLE:
            return None
        if outcome.choices is None:
            raise _nothing_found(settings)
        margins = _broken(problem, outcome.choices)
        if not margins:
            return _judge(problem, outcome.choices, first, settings.gap)
        _LOGGER.warning("solver overstepped %s by a little; solving again", ", ".join(margins))
        if settings.time_limit is not None:
            left = max(deadline - time.perf_counter(), _LEAST_SECONDS)
            settings = dataclasses.replace(settings, time_limit=left)
    raise NoSolutionError(
        f"solver {settings.solver!r} twice gave a choice that breaks {', '.join(margins)}; "
        "use another solver, or move the limit a little"
    )


def _unlimited(problem: ChoiceProblem) -> Found:
    parts = np.split(problem.score, problem.starts[1:])
    choices = tuple(int(part.argmin()) for part in parts)
    return Found(choices=choices, bound=problem.evaluate(choices)[0], proved=True)


def _broken(problem: ChoiceProblem, choices: tuple[int, ...]) -> dict[str, float]:
    """Map each limit the choice breaks to the margin that would rule the choice out."""
    totals = problem.evaluate(choices)[1]
    slacks = {side: side.slack(totals[side.resource]) for side in one_sided(problem)}
    return {
        side.text: -2.0 * slack
        for side, slack in slacks.items()
        if slack < -problem.tolerance(side.resource)
    }


def _judge(
    problem: ChoiceProblem,
    choices: tuple[int, ...],
    first: tuple[ScaledModel, Outcome],
    gap: float,
) -> Found:
    """Work out the bound; only the first run's is valid, the second has tighter limits."""
    model, outcome = first
    objective = problem.evaluate(choices)[0]
    kept = outcome.choices == choices
    known = [math.fsum(np.minimum.reduceat(problem.score, problem.starts))]
    if outcome.bound is not None and np.any(model.cost):
        known.append(model.base + model.scale * outcome.bound)
    if outcome.ending is Ending.OPTIMAL and outcome.choices is not None:
        best = problem.evaluate(outcome.choices)[0]
        known.append(best - gap * abs(best))
    bound = min(max(known), objective)
    room = gap * abs(objective) + 1e-9 * model.scale
    proved = (kept and outcome.ending is Ending.OPTIMAL) or objective - bound <= room
    return Found(choices=choices, bound=bound, proved=proved)


def _nothing_found(settings: Settings) -> NoSolutionError:
    given = "no time limit" if settings.time_limit is None else f"{settings.time_limit:g} seconds"
    return NoSolutionError(
        f"solver {settings.solver!r} found no choice within the limits, and no proof that there "
        f"is none, in {given}; give it more time or loosen a limit"
    )
