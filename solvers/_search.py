"""Search for the best choice, and check the solver's answer against the problem itself."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from dataclasses import dataclass

from solvers._backends import run_program
from solvers._columns import BoolArray
from solvers._model import Variation, build_program, one_sided
from solvers._reduce import narrow
from solvers._scales import is_coarse, largest_excess, split
from solvers._settings import BackendResult, Ending, Settings
from solvers.errors import NoSolutionError
from solvers.limits import Limit
from solvers.problem import ChoiceProblem

_LOGGER = logging.getLogger(__name__)

# Solvers refuse a limit of zero seconds; a further attempt gets at least this.
_LEAST_SECONDS = 0.1

# How many answers past a limit are cut off one by one before the limit itself is tightened.
_CUTS = 3

# What solvers are exact to, as a share of the largest number of the objective.
_PRECISION = 1e-9

# Parts of very different sizes are solved apart until there have been this many solves.
_MOST_SOLVES = 64


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
    return _Branches(problem, settings, start, floor).run()


class _Branches:
    """Solve, leave out what cannot be in a better answer, and solve the rest in its own size.

    A solver is exact to a share of the largest number. Where scores of very different sizes stay,
    they are told apart by solving the large and the small of one group apart from each other.
    """

    def __init__(
        self,
        problem: ChoiceProblem,
        settings: Settings,
        start: tuple[int, ...] | None,
        floor: float,
    ) -> None:
        self.problem, self.settings = problem, settings
        self.best, self.floor = start, floor
        self.value = math.inf if start is None else problem.total(start)[0]
        # Bounds of the branches that are done; one without anything better has none.
        self.bounds: list[float] = []
        self.solves = 0
        limit = settings.time_limit
        self.deadline = math.inf if limit is None else time.perf_counter() + limit

    def run(self) -> Incumbent | None:
        branches = [self.problem.columns.allowed]
        while branches:
            branches += self._settle(branches.pop())
        if self.best is None:
            return None
        bound = min([self.value, *self.bounds])
        room = self.settings.gap * abs(self.value)
        return Incumbent(
            selection=self.best,
            objective=self.value,
            bound=bound,
            proved=self.value - bound <= room + 1e-12 * abs(self.value),
        )

    def _settle(self, branch: BoolArray) -> list[BoolArray]:
        """Solve a branch; returns what of it is still to be solved."""
        usable = narrow(self.problem, branch, self.best)
        if usable is None:
            return []
        attempts = _Attempts(self.problem, self._in_time(), self.best, self.floor, usable)
        self.solves += 1
        try:
            result = attempts.run()
        except NoSolutionError:
            if self.best is None:
                raise
            self.bounds.append(attempts.bound)
            return []
        if result is None:
            if self.best is not None and usable[list(self.best)].all():
                # A start may use all of the tolerance; the solver is given only part of it.
                self.bounds.append(attempts.bound)
            return []
        if result.objective < self.value:
            self.best, self.value = result.selection, result.objective
        left = self._left(branch, usable) if attempts.coarse else []
        if not left:
            self.bounds.append(result.bound)
        return left

    def _left(self, branch: BoolArray, usable: BoolArray) -> list[BoolArray]:
        """Divide what the solver could not tell apart; nothing if that has taken long enough."""
        if self.solves >= _MOST_SOLVES or time.perf_counter() >= self.deadline:
            return []
        finer = narrow(self.problem, branch, self.best)
        if finer is None:
            # Solved again, it is done at once: nothing is left that could be better.
            return [branch]
        if largest_excess(self.problem, finer) <= 0.5 * largest_excess(self.problem, usable):
            return [finer]
        return split(self.problem, finer)

    def _in_time(self) -> Settings:
        if self.settings.time_limit is None or not self.solves:
            return self.settings
        left = max(self.deadline - time.perf_counter(), _LEAST_SECONDS)
        return dataclasses.replace(self.settings, time_limit=left)


class _Attempts:
    """Solve, check, and solve again without the answer that was wrong."""

    def __init__(
        self,
        problem: ChoiceProblem,
        settings: Settings,
        start: tuple[int, ...] | None,
        floor: float,
        usable: BoolArray,
    ) -> None:
        self.problem, self.settings = problem, settings
        self.start, self.bound = start, floor
        # A relative gap is a share of the whole objective, so then nothing may be taken off it.
        self.variation = Variation(shift_score=settings.gap == 0.0, usable=usable)
        # Whether the solver's precision could hide which choice is better.
        self.coarse = False

    def run(self) -> Incumbent | None:
        deadline = time.perf_counter() + (self.settings.time_limit or 0.0)
        for _ in range(_CUTS + 2):
            outcome = self._solve()
            if outcome.ending is Ending.INFEASIBLE and not self.variation.margins:
                return None
            if outcome.selection is None:
                return self._give_up()
            broken = self.problem.broken(outcome.selection)
            if not broken:
                return self._incumbent(outcome.selection)
            _LOGGER.warning("solver exceeded %s slightly; solving again", ", ".join(broken))
            self._rule_out(outcome.selection)
            if self.settings.time_limit is not None:
                left = max(deadline - time.perf_counter(), _LEAST_SECONDS)
                self.settings = dataclasses.replace(self.settings, time_limit=left)
        raise NoSolutionError(
            f"solver {self.settings.solver!r} repeatedly gave a choice that breaks "
            f"{', '.join(broken)}; use another solver, or move the limit a little"
        )

    def _solve(self) -> BackendResult:
        program = build_program(self.problem, self.variation)
        outcome = run_program(program, self.problem.columns, self.settings, self.start)
        if self.variation.margins:
            # What is proved of tighter limits does not hold for the problem.
            return outcome
        best = math.inf
        if outcome.selection is not None:
            best = self.problem.total(outcome.selection)[0]
        error = _PRECISION * program.scale
        assert self.variation.usable is not None
        self.coarse = error > self.settings.gap * abs(best) and is_coarse(
            self.problem, self.variation.usable, error, outcome.selection
        )
        doubt = error if self.coarse else 0.0
        if outcome.bound is not None and program.cost.any():
            bound = program.base + program.scale * outcome.bound
            self.bound = max(self.bound, bound - doubt)
            if not self.coarse and 0.0 <= best - self.bound <= error:
                self.bound = best
        if outcome.ending is Ending.OPTIMAL and outcome.selection is not None:
            self.bound = max(self.bound, best - self.settings.gap * abs(best) - doubt)
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

    def _incumbent(self, selection: tuple[int, ...]) -> Incumbent:
        objective = self.problem.total(selection)[0]
        bound = min(self.bound, objective)
        return Incumbent(selection=selection, objective=objective, bound=bound, proved=False)

    def _give_up(self) -> Incumbent:
        limit, solver = self.settings.time_limit, self.settings.solver
        given = "no time limit" if limit is None else f"{limit:g} seconds"
        raise NoSolutionError(
            f"solver {solver!r} found no choice within the limits, and no proof that there "
            f"is none, in {given}; give it more time or loosen a limit"
        )
