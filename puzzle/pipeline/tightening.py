"""Attempts of a search to keep its limits when the child is measured."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from puzzle.choice.goals import Goals, Missed
from puzzle.choice.layout_choice import Choice
from puzzle.choice.sharpening import near_scores
from puzzle.costs.by_name import PairSeconds, pair_seconds
from puzzle.library.build import Library
from puzzle.limits.scenario import Scenario
from puzzle.pipeline.steps import Priced, Steps
from puzzle.pipeline.watching import announce_scores
from puzzle.progress.listeners import announce
from puzzle.scoring.scores import Scores
from puzzle.stages import Run
from solvers import ChoiceProblem, InfeasibleError, Limit, Solution, solve

ATTEMPTS = 3
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A layout chosen within limits, and what it took when it was run.

    Args:
        solution: The program's solution.
        choice: The layout chosen.
        scores: The scores that it was chosen by; of near ones, those that its program made exact
            are.
        seconds: What parent and child take, by scenario; empty if costs describe other hardware.
        missed: The limits that it misses, as measured.
    """

    solution: Solution
    choice: Choice
    scores: Scores
    seconds: Mapping[Scenario, PairSeconds]
    missed: tuple[Missed, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chooser:
    """What every attempt chooses from.

    Args:
        run: The run.
        steps: The search.
        goals: Constraints and objective.
        scores: The scores; of near ones, the estimates.
        library: The variants.
        priced: The costs.
    """

    run: Run
    steps: Steps
    goals: Goals
    scores: Scores
    library: Library
    priced: Priced

    def choose(self) -> Attempt:
        """Returns the layout chosen; limits that its child misses are tightened a few times.

        Raises:
            InfeasibleError: No layout keeps the limits of the constraints.
        """
        limits = self.goals.limits
        try:
            chosen = self.attempt(limits, self.scores)
        except InfeasibleError as error:
            raise self.goals.in_words(error) from error
        for _ in range(ATTEMPTS - 1):
            if not chosen.missed:
                break
            before, limits = limits, self.goals.tightened(limits, chosen.missed)
            if limits == before:
                break
            try:
                chosen = self.attempt(limits, chosen.scores)
            except InfeasibleError:
                break  # the previous layout stays, with the limits that it misses
        warn_of_missed(chosen.missed)
        return chosen

    def attempt(self, limits: tuple[Limit, ...], scores: Scores) -> Attempt:
        """Returns the layout chosen within limits, timed if the costs describe this machine.

        Args:
            limits: The limits.
            scores: The scores, or of near ones those of an earlier attempt.

        Raises:
            InfeasibleError: No layout keeps the limits.
        """
        if self.steps.near:
            scores = near_scores(
                self.run,
                self.library.refs,
                scores,
                lambda some: self.goals.problem(some, limits),
                count=self.steps.effort.pool,
            )
            announce_scores(scores)
        problem = self.goals.problem(scores, limits)
        solution = solve(problem, solver=self.run.solver, seed=self.run.seed)
        return self.settled(problem, solution, scores)

    def settled(self, problem: ChoiceProblem, solution: Solution, scores: Scores) -> Attempt:
        """Returns the layout chosen from a program, timed if the costs describe this machine.

        Args:
            problem: The program, or what of it may be chosen.
            solution: A solution of it, named by its labels.
            scores: The scores of the program.
        """
        choice = self.run.get(self.steps.choice(problem, solution, self.library.refs))
        seconds: dict[Scenario, PairSeconds] = {}
        for scenario, costs in self.priced.own.items():
            taken = pair_seconds(self.run, costs, choice.layout, scenario)
            if taken is not None:
                seconds[scenario] = taken
        predicted = self.goals.totals(choice.layout, scores)
        announce({"choice/predicted_kl": choice.predicted, **_flat(seconds.values())})
        return Attempt(
            solution=solution,
            choice=choice,
            scores=scores,
            seconds=seconds,
            missed=self.goals.missed(predicted, seconds),
        )


def _flat(seconds: Iterable[PairSeconds]) -> dict[str, float]:
    """Returns the seconds of the first scenario, by model and phase."""
    first = next(iter(seconds), {})
    return {
        f"choice/{who}_{name}": value
        for who, phases in first.items()
        for name, value in phases.items()
    }


def warn_of_missed(missed: tuple[Missed, ...]) -> None:
    """Warns of constraints that the child misses, in the user's words."""
    if missed:
        logger.warning(
            "measured, the child misses %s; ask for more than you need, or use a larger search "
            "space",
            "; ".join(each.text for each in missed),
        )
