"""Measuring a layout: its KL to the parent on score text, reusing the prefixes seen recently."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import torch
from torch import nn

from puzzle.library.build import Library
from puzzle.library.variants import Variants
from puzzle.scoring.reference import Reference
from puzzle.scoring.scores import Score, mean_and_error
from search_space import Block, Layout

# Residual streams kept from earlier layouts, and layers kept loaded, in bytes.
PREFIX_BYTES, LAYER_BYTES = 2**28, 2**30

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class _Recent(Generic[Key, Value]):
    """The values used most recently, up to a total size."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self.entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        if key not in self.entries:
            return None
        self.entries.move_to_end(key)
        return self.entries[key][0]

    def put(self, key: Key, value: Value, size: int) -> None:
        self.entries[key] = (value, size)
        self.size += size
        while self.size > self.limit and len(self.entries) > 1:
            self.size -= self.entries.popitem(last=False)[1][1]


class LayoutKL:
    """Measures layouts of a library on some text, in nats per token to the parent.

    The parent's outputs are computed once. A layout starts from the longest prefix of blocks that
    it shares with the parent or with a recently measured layout, and its layers stay loaded, so a
    change of one layer takes only the layers above it.

    Args:
        library: The variants.
        tokens_BL: Text, (windows, length); not the validation text.

    Example:
        >>> measure = LayoutKL(library, cut.score)  # doctest: +SKIP
        >>> measure(layout).kl, measure(layout, windows=2).kl  # doctest: +SKIP
    """

    def __init__(self, library: Library, tokens_BL: torch.Tensor) -> None:
        self.library, self.parent, self.tokens = library, library.parent, tokens_BL
        self.head = self.parent.head()
        self.layers_run = 0
        self._variants: dict[int, Variants] = {}
        self._layers: _Recent[tuple[int, Block], nn.Module] = _Recent(LAYER_BYTES)
        self._prefixes: _Recent[tuple[int, tuple[Block, ...]], torch.Tensor]
        self._prefixes = _Recent(PREFIX_BYTES)
        self._known: dict[tuple[Layout, int], Score] = {}
        with torch.no_grad():
            last = self.residual(Layout.parent(self.parent.shape), len(tokens_BL))
            self.reference = Reference(self.head, last)

    @torch.no_grad()
    def __call__(self, layout: Layout, *, windows: int | None = None) -> Score:
        """Returns KL(parent || child) and its standard error.

        Args:
            layout: The child's architecture.
            windows: How many of the text's windows are used; all if not given.
        """
        rows = len(self.tokens) if windows is None else min(windows, len(self.tokens))
        if (layout, rows) not in self._known:
            mean, error = mean_and_error(self.reference.kl(self.residual(layout, rows)))
            self._known[layout, rows] = Score(kl=max(0.0, mean), error=error)
        return self._known[layout, rows]

    @property
    def known(self) -> dict[Layout, Score]:
        """The layouts that were measured on all of the text."""
        whole = len(self.tokens)
        return {layout: score for (layout, rows), score in self._known.items() if rows == whole}

    @torch.no_grad()
    def residual(self, layout: Layout, rows: int) -> torch.Tensor:
        """Returns the residual stream after the last layer on the first windows."""
        depth, blocks = layout.shape.layers, layout.blocks
        x_BLD, first = None, depth
        while first and (x_BLD := self._prefixes.get((rows, blocks[:first]))) is None:
            first -= 1
        if x_BLD is None:
            x_BLD = self.parent.embed(self.tokens[:rows])
        for index in range(first, depth):
            x_BLD = self.parent.run(self._layer(index, blocks[index]), x_BLD)
            self._prefixes.put((rows, blocks[: index + 1]), x_BLD, x_BLD.nbytes)
            self.layers_run += 1
        return x_BLD

    def _layer(self, index: int, block: Block) -> nn.Module:
        module = self._layers.get((index, block))
        if module is None:
            variants = self._variants.setdefault(index, self.library.variants(index))
            module = variants.layer_module(block)
            size = sum(parameter.nbytes for parameter in module.parameters())
            self._layers.put((index, block), module, size)
        return module


def measured_kl(library: Library, layout: Layout, tokens_BL: torch.Tensor) -> Score:
    """Returns KL(parent || child) of one layout on some text, in nats per token.

    For several layouts of one library make a `LayoutKL`, which computes what they share once.

    Args:
        library: The variants.
        layout: The child's architecture.
        tokens_BL: Text, (windows, length).
    """
    return LayoutKL(library, tokens_BL)(layout)
