"""Scores around a child: what each change of one block would do to that child's KL.

Scores taken on the parent are blind to what blocks do together. Around a child with next-token
distribution q the KL to the parent's p is known to second order: with respect to the logits its
gradient is q - p and its second derivative diag(q) - q q', the child's own Fisher information. One
backward pass with the first as cotangent and a few with samples of the second give, for a block
that changes the child's residual stream by delta, a first-order term and one like a Fisher score.

They hold near that child, so they propose layouts that differ from it in few layers, and the
layouts are then measured: a trust region, whose radius is a number of layers.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from puzzle.choice.layout_kl import LayoutKL
from puzzle.scoring.gradient_sweep import GradientSweep, second_order
from puzzle.scoring.scores import Score, Scores, combine, stretch_means
from puzzle.stages import Run
from puzzle.storage.workspace import Workspace
from search_space import Block, Layout, SearchSpace
from solvers import ChoiceProblem, InfeasibleError, Limit, solve

CHANGED = "layers changed"
RADII = (1, 2, 3, 5, 8, 12)
logger = logging.getLogger(__name__)


def scores_around(
    measure: LayoutKL,
    space: SearchSpace,
    layout: Layout,
    *,
    workspace: Workspace,
    probes: int = 2,
    windows: int | None = None,
    seed: int = 0,
) -> Scores:
    """Returns, per layer and block, the change of a child's KL to the parent with that block.

    Args:
        measure: Library and text.
        space: Which blocks to score.
        layout: The child; its own blocks score 0.
        workspace: Where the sweep keeps its activations while it runs.
        probes: Backward passes for the second-order part.
        windows: How many of the text's windows are used; all if not given.
        seed: Seed of the probes.
    """
    changes: list[dict[str, list[float]]] = [{block.label: [0.0]} for block in layout.blocks]
    with workspace.scratch() as scratch:
        tokens = measure.tokens[:windows]
        sweep = GradientSweep(
            measure.library, tokens, scratch, probes, layout=layout, reference=measure.reference
        )
        sweep.forward()
        sweep.probe(seed)
        for layer, label, a_KBL in sweep.changes(space):
            change_BL = second_order(a_KBL[:-1]).mean(0) + a_KBL[-1]
            changes[layer].setdefault(label, []).extend(stretch_means(change_BL))
    return Scores(tuple({label: _score(means) for label, means in row.items()} for row in changes))


def _score(means: list[float]) -> Score:
    kl, error = combine(means)
    return Score(kl=kl, error=error, method="around")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrustRegion:
    """Steps of a few layers around a child, each proposed by scores taken around it.

    Args:
        problem: The program; its limits hold for every layout.
        space: The blocks of the problem.
        rounds: Maximum number of rounds; they end early when no step is better.
        windows: How many of the text's windows the scores are taken on; half if not given.
        radii: Numbers of layers that a step may change.
    """

    problem: ChoiceProblem
    space: SearchSpace
    rounds: int
    windows: int | None = None
    radii: tuple[int, ...] = RADII

    def improve(self, run: Run, start: Layout, measure: LayoutKL) -> Layout:
        """Returns a layout that measures no worse than a start.

        Each round scores all blocks around the present child, solves the program for the best
        layouts within a few radii of it, and moves to the best measured if that is better.

        Args:
            run: The run, whose solver, seed and workspace are used.
            start: A layout within the limits.
            measure: What layouts are compared by.
        """
        best, windows = start, self.windows or max(1, len(measure.tokens) // 2)
        for number in range(self.rounds):
            scores = scores_around(
                measure,
                self.space,
                best,
                workspace=run.workspace,
                windows=windows,
                seed=run.seed + number,
            )
            steps = self._steps(run, best, scores)
            better = successive_halving([best, *steps], measure)
            if better == best:
                break
            logger.info("round %d: KL %.4f", number, measure(better).kl)
            best = better
        return best

    def _steps(self, run: Run, at: Layout, scores: Scores) -> list[Layout]:
        pairs = [(layer, label) for layer, row in enumerate(self.problem.groups) for label in row]
        local = dataclasses.replace(
            self.problem, score=np.array([scores.kl(*pair) for pair in pairs])
        )
        changed = [float(label != at.blocks[layer].label) for layer, label in pairs]
        steps: dict[Layout, None] = {}
        for radius in self.radii:
            near = local.with_resource(CHANGED, changed, limit=Limit(CHANGED, at_most=radius))
            try:
                solution = solve(near, solver=run.solver, seed=run.seed)
            except InfeasibleError:
                continue
            steps[layout_of(at, solution.labels)] = None
        return [layout for layout in steps if layout != at]


def layout_of(like: Layout, labels: Iterable[str]) -> Layout:
    """Returns the layout with these block labels and the sizes of another."""
    return Layout(like.shape, tuple(map(Block.from_label, labels)))


def successive_halving(layouts: Iterable[Layout], measure: LayoutKL) -> Layout:
    """Returns the best layout: all are measured on little text, the better half on twice as much.

    Successive halving (Jamieson and Talwalkar 2016), from a quarter of the text to all of it; the
    first of equals wins. The first layout is always measured on all of it.

    Args:
        layouts: At least one layout.
        measure: What layouts are compared by.
    """
    alive = list(dict.fromkeys(layouts))
    first, total = alive[0], len(measure.tokens)
    for windows in (max(1, total // 4), max(1, total // 2)):
        if len(alive) > 2:
            alive = _ranked(alive, measure, windows)[: (len(alive) + 1) // 2]
    return _ranked(list(dict.fromkeys([first, *alive])), measure, None)[0]


def _ranked(layouts: list[Layout], measure: LayoutKL, windows: int | None) -> list[Layout]:
    """Returns layouts from the best to the worst, all measured in one pass; equals keep order."""
    pairs = zip(measure.all(layouts, windows=windows), layouts, strict=True)
    return [layout for _, layout in sorted(pairs, key=lambda pair: pair[0].kl)]
