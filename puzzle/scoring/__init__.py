"""Scores: how far the parent's next-token distribution moves when a block is replaced."""

from puzzle.scoring.replace_one import replace_one

__all__ = ["replace_one"]
