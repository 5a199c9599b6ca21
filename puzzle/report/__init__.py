"""The outcome of a search, for others to see: the report page, its figures, the model card."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
