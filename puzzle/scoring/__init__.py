"""Scores: how far the whole model's output moves when one block is replaced."""

from puzzle.scoring.fisher import FisherConfig, fisher
from puzzle.scoring.hybrid import HybridConfig, hybrid
from puzzle.scoring.influence import block_influence
from puzzle.scoring.replace_one import replace_one, replace_some
from puzzle.scoring.scores import Score, Scores
from puzzle.scoring.task import task_scores

__all__ = [
    "FisherConfig",
    "HybridConfig",
    "Score",
    "Scores",
    "block_influence",
    "fisher",
    "hybrid",
    "replace_one",
    "replace_some",
    "task_scores",
]
