"""Measuring a child: its speed, its distance to its parent, and what it can do."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
