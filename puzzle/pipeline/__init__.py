"""The pipeline: a search from parent and text to a measured child."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
