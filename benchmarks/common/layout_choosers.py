"""Layouts within a share of the layers' parameters, by what `search` chooses with."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import cached_property

from common.programs import choice_problem

from puzzle.choice.layout_choice import EFFORTS, LayoutChoice
from puzzle.choice.sharpening import near_scores
from puzzle.library.build import BlockLibrary, Library
from puzzle.library.layers import LibrarySpec
from puzzle.scoring.exact_scores import ExactScores
from puzzle.scoring.fisher_scores import FisherConfig, FisherScores
from puzzle.scoring.hybrid_scores import HybridConfig, HybridScores
from puzzle.scoring.scores import Scores
from puzzle.stages import Run
from search_space import ModelShape, SearchSpace, counting
from solvers import ChoiceProblem, Limit, solve

logger = logging.getLogger(__name__)
COARSE = (1536, 1152, 768, 384)
FINE = (1536, 1344, 1152, 960, 768, 576, 384, 320, 160)
FFNS = {
    "coarse": [*(f"gated{width}" for width in COARSE), "none"],
    "fine": [*(f"gated{width}" for width in FINE), "linear", "none"],
}
ATTENTIONS = {"coarse": ("gqa3", "gqa1", "none"), "fine": ("gqa3", "gqa2h6", "gqa1h3", "none")}
# Fit text of the libraries that layouts are chosen in; children are healed on another one.
LIBRARY_TOKENS = {"coarse": 8192, "fine": 16384}
HOWS = ("fisher", "hybrid", "exact", "near", "default", "thorough")


def space_named(shape: ModelShape, name: str) -> SearchSpace:
    """Returns a space: the widths of the default space, or every third of them."""
    return SearchSpace.uniform(shape, attentions=ATTENTIONS[name], ffns=FFNS[name])


@dataclass(frozen=True)
class LayoutChooser:
    """Layouts of one space.

    Args:
        run: Parent, workspace, and the text of the library.
        space: The space.
    """

    run: Run
    space: SearchSpace

    @cached_property
    def library(self) -> Library:
        """The variants."""
        return self.run.get(BlockLibrary(spec=LibrarySpec(space=self.space)))

    def scores(self, how: str, share: float) -> Scores:
        """Returns scores: of all blocks in one way, or exact near the optimum of a share."""
        of = {"space": self.space, "layers": self.library.refs}
        if how == "fisher":
            return self.run.get(FisherScores(**of, config=FisherConfig(probes=4, rounds=1)))
        if how == "exact":
            return self.run.get(ExactScores(**of))
        estimates = self.run.get(HybridScores(**of, config=HybridConfig(trust=None)))
        if how == "hybrid":
            return estimates
        started = time.process_time()
        found = near_scores(
            self.run,
            self.library.refs,
            estimates,
            lambda scores: self.problem(scores, share),
            count=EFFORTS["default"].pool,
        )
        logger.info("near scores: %s, %.0f s", found.methods(), time.process_time() - started)
        return found

    def problem(self, scores: Scores, share: float) -> ChoiceProblem:
        """Returns the program: the least sum of scores within a share of the parameters."""
        shape = self.space.shape
        rows = [self.space.blocks(layer) for layer in range(shape.layers)]
        whole = sum(counting.block_parameters(shape, row[0]) for row in rows)
        return choice_problem(
            rows,
            lambda layer, block: scores.kl(layer, block.label),
            {"parameters": lambda _, block: counting.block_parameters(shape, block)},
            [Limit("parameters", at_most=share * whole)],
        )

    def labels(self, how: str, share: float) -> tuple[str, ...]:
        """Returns the block labels of the layout that is chosen.

        Args:
            how: One of `HOWS`: scores whose optimum is taken, or an effort, which measures too.
            share: Of the layers' parameters.
        """
        started = time.process_time()
        problem = self.problem(self.scores(how, share), share)
        optimum = solve(problem)
        logger.info("scores and optimum: %.0f s", time.process_time() - started)
        if how not in EFFORTS:
            return optimum.labels
        started = time.process_time()
        choice = self.run.get(
            LayoutChoice(
                problem=problem,
                optimum=optimum,
                layers=self.library.refs,
                space=self.space,
                effort=EFFORTS[how],
            )
        )
        seconds = time.process_time() - started
        best, of = choice.measured, choice.tried.get(optimum.labels)
        logger.info("measuring: %.0f s, KL %s, of the optimum %s", seconds, best, of)
        return tuple(block.label for block in choice.layout.blocks)
