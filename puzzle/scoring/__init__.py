"""Scores: how far the whole model's output moves when one block is replaced."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
