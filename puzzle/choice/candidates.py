"""Layouts worth measuring that the program's own scores do not put first."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np

from puzzle.choice.around import layout_of
from puzzle.choice.baselines import whole_layers
from puzzle.errors import ConstraintError
from puzzle.library.build import Library
from puzzle.scoring.fisher_scores import FisherScores
from puzzle.scoring.influence import block_influence
from puzzle.stages import Run
from search_space import Layout, SearchSpace
from search_space.plain_layouts import EMPTY
from solvers import ChoiceProblem, solve


def other_candidates(
    run: Run, problem: ChoiceProblem, library: Library, space: SearchSpace
) -> list[Layout]:
    """Returns the optimum by Fisher scores, and the parent without whole layers.

    Exact scores of single blocks mislead where many layers are removed at once: gradients err in
    other ways, and dropping the layers of least block influence (ShortGPT) sometimes beats both.

    Args:
        run: The run; of its text only the score part is used.
        problem: The program; its limits hold for every layout.
        library: The variants.
        space: The blocks of the problem.
    """
    own = Layout.parent(space.shape)
    scores = run.get(FisherScores(space=space, layers=library.refs))
    column = [scores.kl(layer, label) for layer, row in enumerate(problem.groups) for label in row]
    by_gradient = dataclasses.replace(problem, score=np.array(column))
    candidates = [solve(by_gradient, solver=run.solver, seed=run.seed).labels]
    whole = own.blocks[0].label
    if all({whole, EMPTY.label} <= set(row) for row in problem.groups):
        influence = block_influence(library.parent, run.text.score)
        # The limits may not be met even without any layer.
        with contextlib.suppress(ConstraintError):
            candidates.append(whole_layers(problem, influence, full=whole, empty=EMPTY.label))
    return [layout_of(own, labels) for labels in candidates]
