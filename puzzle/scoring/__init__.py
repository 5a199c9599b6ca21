"""Scores: how far the whole model's output moves when one block is replaced."""

from puzzle.scoring.fisher import FisherConfig, fisher
from puzzle.scoring.hybrid import HybridConfig, hybrid
from puzzle.scoring.replace_one import replace_one, replace_some
from puzzle.scoring.scores import Score, Scores

__all__ = [
    "FisherConfig",
    "HybridConfig",
    "Score",
    "Scores",
    "fisher",
    "hybrid",
    "replace_one",
    "replace_some",
]
