"""Costs: what each block takes on the target device in a scenario."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
