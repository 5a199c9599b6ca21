"""Shared libraries: a parent's variants, scores and profiles, which others choose children from."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
