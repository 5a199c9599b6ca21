"""Neural architecture search that makes a pretrained language model faster on your hardware.

What is exported here is listed in the stub beside this file, and imported when it is first used.
"""

from puzzle._lazy import open_door, register_child_with_transformers

# Before torch is loaded, because OpenMP reads its settings then.
from puzzle.hardware.threads import shorten_spin

__version__ = "0.2.0.dev0"
__getattr__, __dir__, __all__ = open_door(__name__, __file__)

shorten_spin()
register_child_with_transformers()
