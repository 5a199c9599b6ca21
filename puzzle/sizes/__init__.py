"""Sizes: a family of children from one library and one set of scores."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
