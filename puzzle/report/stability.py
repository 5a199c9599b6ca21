"""How stable a choice is: what is chosen when scores move by their standard errors."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

import numpy as np

from puzzle.report.evidence import Evidence
from puzzle.report.outcomes import SECONDS
from solvers import Solution, SolverError, solve

GAP = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class UnstableLayer:
    """A layer whose block is not the same in every draw.

    Args:
        layer: The layer.
        block: The program's own choice.
        share: Share of the draws in which it was chosen.
        other: The block that was chosen most often among the others.
        other_share: Share of the draws in which that one was chosen.
    """

    layer: int
    block: str
    share: float
    other: str
    other_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """The choice under scores moved by their standard errors.

    Args:
        draws: How often scores were drawn and the program solved again.
        chosen: The program's own choice for each layer.
        counts: For each layer, how often each block was chosen.
    """

    draws: int
    chosen: tuple[str, ...]
    counts: tuple[Counter[str], ...]

    @property
    def stable(self) -> int:
        """Number of layers that got the same block in every draw."""
        pairs = zip(self.chosen, self.counts, strict=True)
        return sum(counts[label] == self.draws for label, counts in pairs)

    def unstable_layers(self) -> list[UnstableLayer]:
        """Returns the layers that did not get the same block in every draw, least stable first."""
        rows = []
        for layer, (label, counts) in enumerate(zip(self.chosen, self.counts, strict=True)):
            others = [(count, other) for other, count in counts.items() if other != label]
            if others:
                count, other = max(others)
                row = UnstableLayer(
                    layer=layer,
                    block=label,
                    share=counts[label] / self.draws,
                    other=other,
                    other_share=count / self.draws,
                )
                rows.append(row)
        return sorted(rows, key=lambda row: (row.share, row.layer))


def stability(
    evidence: Evidence, solution: Solution, *, draws: int = 20, seed: int = 0
) -> Stability | None:
    """Returns what the program chooses under scores drawn around the estimates.

    Every score is drawn on its own from a normal distribution with its standard error; errors
    that are common to many scores are not drawn.

    Args:
        evidence: The program and its scores.
        solution: The program's solution.
        draws: How many times.
        seed: Seed of the draws.

    Returns:
        The counts, or None if no score has an error, the solution is one within other limits or
        of another objective, or a solve ran out of time.
    """
    problem = evidence.problem
    if evidence.minimised != "kl" or evidence.own_solution(solution) is None:
        return None
    pairs = [(layer, label) for layer, labels in enumerate(problem.groups) for label in labels]
    errors = np.array([evidence.scores[layer][label].error for layer, label in pairs])
    if not errors.any():
        return None
    generator = np.random.default_rng(seed)
    counts: list[Counter[str]] = [Counter() for _ in problem.groups]
    for _ in range(draws):
        score = np.maximum(problem.score + errors * generator.standard_normal(len(errors)), 0.0)
        drawn = dataclasses.replace(problem, score=score)
        try:
            redrawn = solve(drawn, gap=GAP, time_limit=SECONDS, start=solution)
        except SolverError:
            return None
        for count, label in zip(counts, redrawn.labels, strict=True):
            count[label] += 1
    return Stability(draws=draws, chosen=solution.labels, counts=tuple(counts))
