"""Measuring a layout: its KL to the parent on score text, reusing the prefixes seen recently."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from puzzle.library.build import Library
from puzzle.library.layout_pass import LayoutPass
from puzzle.progress.bars import Count
from puzzle.progress.listeners import announce
from puzzle.scoring.reference import Reference
from puzzle.scoring.scores import Score, mean_and_error
from search_space import Layout

# Streams between layers that stay on disk for the layouts that are measured next, in bytes at
# least; room for those of a few layouts of any depth otherwise.
PREFIX_BYTES, LAYOUTS_KEPT = 2**28, 2


class LayoutKL:
    """Measures layouts of a library on some text, in nats per token to the parent.

    The parent's outputs are computed once. A layout starts from the longest prefix of blocks that
    it shares with the parent or with a recently measured layout, so a change of one layer takes
    only the layers above it. Layers are read from disk, one block at a time.

    Args:
        library: The variants.
        tokens_BL: Text, (windows, length); not the validation text.
        count: Counts the layouts as they are measured.

    Example:
        >>> measure = LayoutKL(library, cut.score)  # doctest: +SKIP
        >>> measure(layout).kl, measure(layout, windows=2).kl  # doctest: +SKIP
    """

    def __init__(
        self, library: Library, tokens_BL: torch.Tensor, count: Count | None = None
    ) -> None:
        self.library, self.parent, self.tokens = library, library.parent, tokens_BL
        self.count = count
        self.head = self.parent.head()
        self._pass = LayoutPass(library, tokens_BL, kept=self._kept_bytes())
        self._known: dict[tuple[Layout, int], Score] = {}
        (last,) = self._pass.residuals([None], len(tokens_BL))
        self.reference = Reference(self.head, last)

    def _kept_bytes(self) -> int:
        shape = self.parent.shape
        stream = self.tokens.numel() * shape.hidden * self.parent.dtype.itemsize
        return max(PREFIX_BYTES, LAYOUTS_KEPT * (shape.layers + 1) * stream) if PREFIX_BYTES else 0

    def __call__(self, layout: Layout, *, windows: int | None = None) -> Score:
        """Returns KL(parent || child) and its standard error.

        Args:
            layout: The child's architecture.
            windows: How many of the text's windows are used; all if not given.
        """
        return self.all([layout], windows=windows)[0]

    @torch.no_grad()
    def all(self, layouts: Sequence[Layout], *, windows: int | None = None) -> list[Score]:
        """Returns the KL of several layouts from one pass, in which each layer is read once.

        Args:
            layouts: The layouts.
            windows: As for a single one.
        """
        rows = len(self.tokens) if windows is None else min(windows, len(self.tokens))
        new = [each for each in dict.fromkeys(layouts) if (each, rows) not in self._known]
        for layout, last in zip(new, self._pass.residuals(new, rows), strict=True):
            mean, error = mean_and_error(self.reference.kl(last))
            self._known[layout, rows] = Score(kl=max(0.0, mean), error=error)
            if self.count is not None:
                self.count.update()
            if rows == len(self.tokens):
                announce({"layout/kl": max(0.0, mean), "layout/kl_error": error})
        return [self._known[layout, rows] for layout in layouts]

    @property
    def known(self) -> dict[Layout, Score]:
        """The layouts that were measured on all of the text."""
        whole = len(self.tokens)
        return {layout: score for (layout, rows), score in self._known.items() if rows == whole}

    @property
    def layers_run(self) -> int:
        """How many times a layer was run so far."""
        return self._pass.layers_run

    def residual(self, layout: Layout, rows: int) -> torch.Tensor:
        """Returns the residual stream after the last layer on the first windows."""
        return self._pass.residuals([layout], rows)[0]


def measured_kl(library: Library, layout: Layout, tokens_BL: torch.Tensor) -> Score:
    """Returns KL(parent || child) of one layout on some text, in nats per token.

    For several layouts of one library make a `LayoutKL`, which computes what they share once.

    Args:
        library: The variants.
        layout: The child's architecture.
        tokens_BL: Text, (windows, length).
    """
    return LayoutKL(library, tokens_BL)(layout)
