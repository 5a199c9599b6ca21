"""Measuring a child: its distance from its parent on text, and its scores in tasks."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
