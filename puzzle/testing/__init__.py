"""Conformance checks for what users write themselves, to run in their own tests."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
