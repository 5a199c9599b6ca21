"""Near scores: exact for the blocks that the best layouts are made of, estimated for all others.

Most blocks of a space are in no layout that comes near the optimum, so their exact scores decide
nothing. The program is solved with estimates, the blocks of its best layouts are scored exactly,
and again until these layouts hold no estimate. A block that was underestimated is tried and given
up. One that is overestimated by more than it would save stays unseen: were no estimate above the
exact score, the layouts would be those by exact scores of all blocks. So estimates should not be
too high, and calibrated Fisher scores, which are as often too high as too low, miss a little.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from puzzle.scoring.exact_scores import Key, exact_of_some
from puzzle.scoring.scores import Score, Scores
from puzzle.stages import Run
from puzzle.storage.workspace import ArtifactRef
from solvers import ChoiceProblem, Solution, pool

EXACT = "exact"
logger = logging.getLogger(__name__)


def sharpened(
    scores: Scores,
    propose: Callable[[Scores], Iterable[Sequence[str]]],
    exact_of: Callable[[list[Key]], Mapping[Key, Score]],
) -> Scores:
    """Returns scores that are exact for every block of the layouts that they propose.

    Args:
        scores: Estimates, some of which may be exact.
        propose: Returns the block labels of layouts, such as a program's best by some scores.
        exact_of: Returns the exact scores of some (layer, label).

    Example:
        >>> estimates = Scores(({"a": Score(kl=1.0, method="fisher"),
        ...                      "b": Score(kl=2.0, method="fisher")},))
        >>> found = sharpened(
        ...     estimates,
        ...     lambda scores: [[min(scores[0], key=lambda label: scores.kl(0, label))]],
        ...     lambda keys: {key: Score(kl=1.5) for key in keys})
        >>> found.kl(0, "a"), found.kl(0, "b"), found.methods()
        (1.5, 2.0, {'exact': 1, 'fisher': 1})
    """
    while True:
        proposed = dict.fromkeys(key for labels in propose(scores) for key in enumerate(labels))
        wanted = [key for key in proposed if scores[key[0]][key[1]].method != EXACT]
        if not wanted:
            return scores
        logger.info("%d blocks to score exactly", len(wanted))
        scores = scores.replaced(exact_of(wanted))


def near_optimal(
    problem: ChoiceProblem, count: int, *, solver: str = "highs", seed: int = 0
) -> tuple[Solution, ...]:
    """Returns a program's best layouts, each different from the others in a tenth of the layers.

    Args:
        problem: The program.
        count: How many; there may be fewer so far apart. The first is the optimum.
        solver: As in `solvers.solve`.
        seed: Seed of the solver.

    Raises:
        InfeasibleError: No layout keeps the limits.
    """
    apart = max(1, len(problem.groups) // 10)
    return pool(problem, count, apart, solver=solver, seed=seed)


def near_scores(
    run: Run,
    layers: tuple[ArtifactRef, ...],
    estimates: Scores,
    problem_of: Callable[[Scores], ChoiceProblem],
    *,
    count: int = 1,
) -> Scores:
    """Returns scores that are exact for every block of a program's best layouts.

    Args:
        run: The run; its executor may score several layers at a time.
        layers: The library's layers.
        estimates: A score for every block; exact ones stay.
        problem_of: Returns the program for scores.
        count: How many of its best layouts, as for `near_optimal`.

    Raises:
        InfeasibleError: No layout keeps the limits.

    Example:
        >>> scores = near_scores(run, library.refs, estimates, goals.problem,
        ...                      count=8)  # doctest: +SKIP
        >>> scores.methods()  # doctest: +SKIP
        {'calibrated': 1203, 'exact': 87}
    """

    def propose(scores: Scores) -> list[tuple[str, ...]]:
        problem = problem_of(scores)
        best = near_optimal(problem, count, solver=run.solver, seed=run.seed)
        return [solution.labels for solution in best]

    return sharpened(estimates, propose, partial(exact_of_some, run, layers))
