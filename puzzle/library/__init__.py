"""The block library: every variant of every layer, with weights and local errors."""

from puzzle.library.build import Library, build_library

__all__ = ["Library", "build_library"]
