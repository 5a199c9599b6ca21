"""Hardware: what devices this machine has, what they are, and how they are timed."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
