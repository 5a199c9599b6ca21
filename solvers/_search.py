"""Search for the best choice, and check the solver's answer against the problem itself."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from dataclasses import dataclass

from solvers._backends import run_program
from solvers._model import Variation, build_program, one_sided
from solvers._settings import BackendResult, Ending, Settings
from solvers.errors import NoSolutionError
from solvers.limits import Limit
from solvers.problem import ChoiceProblem

_LOGGER = logging.getLogger(__name__)

# Solvers refuse a limit of zero seconds; a further attempt gets at least this.
_LEAST_SECONDS = 0.1

# How many answers past a limit are cut off one by one before the limit itself is tightened.
_CUTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent:
    """A selection within the limits, in real units."""

    selection: tuple[int, ...]
    objective: float
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


def find_best(
    problem: ChoiceProblem,
    settings: Settings,
    *,
    start: tuple[int, ...] | None = None,
    floor: float = -math.inf,
) -> Incumbent | None:
    """Find the best selection within the limits.

    Args:
        problem: The problem.
        settings: Which solver to use, and how.
        start: A selection to begin from; if it is a solution, the result is never worse.
        floor: A bound that is known already.

    Returns:
        The selection, or None if there is none within the limits.

    Raises:
        NoSolutionError: If the solver gave neither a selection nor a proof that there is none.
        SolverError: If the solver itself failed.
    """
    if unreachable(problem):
        return None
    floor = max(floor, problem.total(problem.columns.least(problem.columns.score))[0])
    if not problem.limits and problem.distinct is None:
        best = problem.columns.least(problem.columns.score)
        return Incumbent(selection=best, objective=floor, bound=floor, proved=True)
    if start is not None and problem.broken(start):
        start = None
    return _Attempts(problem, settings, start, floor).run()


class _Attempts:
    """Solve, check, and solve again without the answer that was wrong."""

    def __init__(
        self,
        problem: ChoiceProblem,
        settings: Settings,
        start: tuple[int, ...] | None,
        floor: float,
    ) -> None:
        self.problem, self.settings = problem, settings
        self.start, self.bound = start, floor
        # A relative gap is a share of the whole objective, so then nothing may be taken off it.
        self.variation = Variation(shift_score=settings.gap == 0.0)
        self.scale = 1.0

    def run(self) -> Incumbent | None:
        deadline = time.perf_counter() + (self.settings.time_limit or 0.0)
        for _ in range(_CUTS + 2):
            outcome = self._solve()
            if outcome.ending is Ending.INFEASIBLE and not self.variation.margins:
                # A start may use all of the tolerance; the solver is given only part of it.
                return self._incumbent(self.start) if self.start else None
            if outcome.selection is None:
                return self._give_up()
            broken = self.problem.broken(outcome.selection)
            if not broken:
                return self._judge(outcome)
            _LOGGER.warning("solver exceeded %s slightly; solving again", ", ".join(broken))
            self._rule_out(outcome.selection)
            if self.settings.time_limit is not None:
                left = max(deadline - time.perf_counter(), _LEAST_SECONDS)
                self.settings = dataclasses.replace(self.settings, time_limit=left)
        if self.start:
            return self._incumbent(self.start)
        raise NoSolutionError(
            f"solver {self.settings.solver!r} repeatedly gave a choice that breaks "
            f"{', '.join(broken)}; use another solver, or move the limit a little"
        )

    def _solve(self) -> BackendResult:
        program = build_program(self.problem, self.variation)
        self.scale = program.scale
        outcome = run_program(program, self.problem.columns, self.settings, self.start)
        if self.variation.margins:
            # What is proved of tighter limits does not hold for the problem.
            return outcome
        if outcome.bound is not None and program.cost.any():
            self.bound = max(self.bound, program.base + program.scale * outcome.bound)
        if outcome.ending is Ending.OPTIMAL and outcome.selection is not None:
            best = self.problem.total(outcome.selection)[0]
            self.bound = max(self.bound, best - self.settings.gap * abs(best))
        return outcome

    def _rule_out(self, selection: tuple[int, ...]) -> None:
        """Cut the answer off, which loses no solution; as a last resort tighten the limits."""
        cuts = (*self.variation.cuts, selection)
        margins: dict[str, float] = {}
        if len(cuts) > _CUTS:
            totals = self.problem.total(selection)[1]
            for side in one_sided(self.problem):
                over = -side.slack(totals[side.resource])
                if over > self.problem.tolerance(side.resource):
                    margins[side.text] = 2.0 * over
        self.variation = dataclasses.replace(self.variation, cuts=cuts, margins=margins)

    def _judge(self, outcome: BackendResult) -> Incumbent:
        assert outcome.selection is not None
        best = self._incumbent(outcome.selection)
        optimal = outcome.ending is Ending.OPTIMAL and not self.variation.margins
        if self.start is not None:
            start = self._incumbent(self.start)
            best = start if start.objective < best.objective else best
        return dataclasses.replace(best, proved=best.proved or optimal)

    def _incumbent(self, selection: tuple[int, ...]) -> Incumbent:
        objective = self.problem.total(selection)[0]
        bound = min(self.bound, objective)
        room = self.settings.gap * abs(objective) + 1e-9 * self.scale
        return Incumbent(
            selection=selection,
            objective=objective,
            bound=bound,
            proved=objective - bound <= room,
        )

    def _give_up(self) -> Incumbent:
        if self.start is not None:
            return self._incumbent(self.start)
        limit, solver = self.settings.time_limit, self.settings.solver
        given = "no time limit" if limit is None else f"{limit:g} seconds"
        raise NoSolutionError(
            f"solver {solver!r} found no choice within the limits, and no proof that there "
            f"is none, in {given}; give it more time or loosen a limit"
        )
