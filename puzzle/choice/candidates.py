"""Layouts worth measuring that the program's own scores do not put first."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np

from puzzle.choice.around import layout_of
from puzzle.choice.baselines import whole_layers
from puzzle.errors import ConstraintError
from puzzle.library.build import Library
from puzzle.scoring.fisher import fisher
from puzzle.scoring.influence import block_influence
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import Windows
from search_space import FFN, Attention, Block, Layout, SearchSpace
from solvers import ChoiceProblem, solve

EMPTY = Block(Attention("none"), FFN("none")).label


def other_candidates(
    problem: ChoiceProblem,
    library: Library,
    space: SearchSpace,
    windows: Windows,
    *,
    workspace: Workspace,
    solver: str = "highs",
    seed: int = 0,
) -> list[Layout]:
    """Returns the optimum by Fisher scores, and the parent without whole layers.

    Exact scores of single blocks lose where many layers go at once: gradients see other things,
    and dropping the layers of least block influence (ShortGPT) now and then beats both.

    Args:
        problem: The program; its limits hold for every layout.
        library: The variants.
        space: The blocks of the problem.
        windows: The text; only its score part is used.
        workspace: Where scores are stored.
        solver: As in `solvers.solve`.
        seed: Seed of the solver.
    """
    own = Layout.parent(space.shape)
    scores = fisher(library, space, windows, workspace=workspace)
    column = [scores.kl(layer, label) for layer, row in enumerate(problem.groups) for label in row]
    by_gradient = dataclasses.replace(problem, score=np.array(column))
    found = [solve(by_gradient, solver=solver, seed=seed).labels]
    whole = own.blocks[0].label
    if all({whole, EMPTY} <= set(row) for row in problem.groups):
        influence = block_influence(library.parent, windows.score)
        # Not even without any layer may the limits be met.
        with contextlib.suppress(ConstraintError):
            found.append(whole_layers(problem, influence, full=whole, empty=EMPTY))
    return [layout_of(own, labels) for labels in found]
