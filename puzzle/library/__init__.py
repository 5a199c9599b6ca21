"""The block library: every variant of every layer, with weights and local errors."""

from puzzle.library.build import Library, build_library, heal
from puzzle.library.config import BLDConfig, LibraryConfig
from puzzle.library.errors import LocalError

__all__ = ["BLDConfig", "Library", "LibraryConfig", "LocalError", "build_library", "heal"]
