"""Exact scores of the blocks that a program's best layouts are made of, and of no others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from puzzle.scoring.scores import Score, Scores
from solvers import ChoiceProblem, pool

Key = tuple[int, str]
logger = logging.getLogger(__name__)


def sharpened(
    scores: Scores,
    problem_of: Callable[[Scores], ChoiceProblem],
    exact_of: Callable[[list[Key]], Mapping[Key, Score]],
    *,
    count: int = 1,
    solver: str = "highs",
    seed: int = 0,
) -> Scores:
    """Returns scores that are exact for every block of the program's best layouts.

    The program is solved with the estimates, the blocks of its best layouts are scored exactly,
    and so on until they all are. A block that is underestimated is tried and given up; one that
    is overestimated by more than it would save stays unseen, so estimates should be unbiased.

    Args:
        scores: Estimates, some of which may be exact.
        problem_of: Returns the program for scores.
        exact_of: Returns the exact scores of some (layer, label).
        count: How many of the program's best layouts, a tenth of the layers apart.
        solver: As in `solvers.solve`.
        seed: Seed of the solver.
    """
    while True:
        problem = problem_of(scores)
        apart = max(1, len(problem.groups) // 10)
        best = pool(problem, count, apart, solver=solver, seed=seed)
        chosen = dict.fromkeys(key for each in best for key in enumerate(each.labels))
        wanted = [key for key in chosen if scores[key[0]][key[1]].method != "exact"]
        if not wanted:
            return scores
        logger.info("%d blocks to score exactly", len(wanted))
        scores = scores.replaced(exact_of(wanted))
