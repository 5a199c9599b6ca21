"""Pairwise terms from Fisher probes, shrunken and never negative: an idea to test."""

from __future__ import annotations

import numpy as np
import torch

from puzzle.scoring.gradient_sweep import GradientSweep
from solvers import ChoiceProblem, refine, solve

WINDOWS, PROBES, MOVES = 4, 4, 3000
_PAIRS_OF_STUDY: dict[int, tuple[dict[tuple[int, str], int], np.ndarray]] = {}


def interacting(study, problem: ChoiceProblem, share: float) -> tuple[str, ...]:
    """Returns the layout of least score plus a share of the positive pairwise terms.

    With a_i the probes' view of block i at a position, KL is about mean((sum a_i)^2) / 2: scores
    on the diagonal, mean(a_i a_j) for pairs. Those that promise that errors cancel are dropped.

    Args:
        study: Library and text.
        problem: The program, with additive scores.
        share: How much of the pairwise terms counts.
    """
    if id(study) not in _PAIRS_OF_STUDY:
        _PAIRS_OF_STUDY[id(study)] = _pairs(study)
    at, pair = _PAIRS_OF_STUDY[id(study)]
    columns = [[at.get((i, label), 0) for label in row] for i, row in enumerate(problem.groups)]
    start = solve(problem)

    def value(choices: tuple[int, ...]) -> float:
        chosen = [row[choice] for row, choice in zip(columns, choices, strict=True)]
        return problem.evaluate(choices)[0] + share * float(pair[np.ix_(chosen, chosen)].sum()) / 2

    return refine(problem, start, value, MOVES).labels


def _pairs(study) -> tuple[dict[tuple[int, str], int], np.ndarray]:
    """Returns the row of each (layer, label), row 0 being no change, and the positive terms."""
    seen: dict[tuple[int, str], list[torch.Tensor]] = {}
    with study.workspace.scratch() as scratch:
        sweep = GradientSweep(study.library, study.cut.score[:WINDOWS], scratch, PROBES)
        sweep.forward()
        sweep.probe(0)
        for layer, label, a_KBL in sweep.changes(study.space):
            seen.setdefault((layer, label), []).append(a_KBL.flatten(1))
    a = torch.stack([torch.cat(pieces, 1).flatten() for pieces in seen.values()])
    pair = (a @ a.T / a.shape[1]).clamp_min(0.0).numpy()
    layers = np.array([layer for layer, _ in seen])
    pair[layers[:, None] == layers[None, :]] = 0.0
    return {key: i + 1 for i, key in enumerate(seen)}, np.pad(pair, ((1, 0), (1, 0)))
