"""What an architecture is: frozen values that import neither torch nor puzzle."""

from search_space import counting
from search_space.blocks import FFN, Attention, Block, Layout, ModelShape
from search_space.space import SearchSpace

__all__ = ["FFN", "Attention", "Block", "Layout", "ModelShape", "SearchSpace", "counting"]
