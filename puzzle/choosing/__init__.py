"""Choosing among layouts by measuring them."""

from puzzle.choosing.measure import Measure, measured_kl

__all__ = ["Measure", "measured_kl"]
