"""Choosing among layouts by measuring them."""

from puzzle.choosing.around import halved, rescored, scores_around
from puzzle.choosing.candidates import other_candidates
from puzzle.choosing.choose import (
    EFFORTS,
    Choice,
    Effort,
    best_of_pool,
    choice_text,
    choose,
    effort_named,
    refined,
)
from puzzle.choosing.measure import Measure, measured_kl

__all__ = [
    "EFFORTS",
    "Choice",
    "Effort",
    "Measure",
    "best_of_pool",
    "choice_text",
    "choose",
    "effort_named",
    "halved",
    "measured_kl",
    "other_candidates",
    "refined",
    "rescored",
    "scores_around",
]
