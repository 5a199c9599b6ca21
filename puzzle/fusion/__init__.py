"""FFN fusion: neighbouring layers without attention computed in parallel as one."""

from puzzle._lazy import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
