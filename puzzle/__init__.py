"""Neural architecture search that makes a pretrained language model faster on your hardware."""

from puzzle import child as _child  # registers the child with the transformers Auto classes
from puzzle.errors import PuzzleError
from puzzle.scenario import Scenario

__version__ = "0.1.0"
__all__ = ["PuzzleError", "Scenario"]

del _child
