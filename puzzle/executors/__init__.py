"""Executors: where independent jobs run, in this process, in several, or on a cluster."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
