"""LaterLibrary: a shared library whose parent is opened when a child's weights are needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from puzzle.library.build import Library
from puzzle.models.parent import Parent


class LaterLibrary:
    """The blocks of a layout that was chosen before its parent, which may be large, was there.

    Args:
        unopened: The parent as it is given to `open_parent`: a hub id or a path.
        root: The run directory.
        opening: Opens the parent and returns the blocks.
    """

    def __init__(self, *, unopened: Any, root: Path, opening: Callable[[], Library]) -> None:
        self.unopened, self.root, self._opening = unopened, root, opening

    @cached_property
    def opened(self) -> Library:
        """The blocks; the parent is opened the first time."""
        return self._opening()

    @property
    def parent(self) -> Parent:
        """The parent, opened."""
        return self.opened.parent
