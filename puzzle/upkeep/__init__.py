"""Run directories looked after: what is in them, what is wrong, and what can be deleted."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
