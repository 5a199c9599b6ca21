"""One pass up through several layouts at once, layer outermost: a layer is loaded once for all."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from puzzle.library.build import Library
from puzzle.library.variants import Variants
from puzzle.models.boundaries import in_batches, mapped_tensor, windows_together
from puzzle.models.parent import Parent
from puzzle.progress.bars import counted
from search_space import Block, Layout

# The blocks below a stream; None stands for the parent's own, as it is.
Prefix = tuple[Block | None, ...]
# What a stream is of: how many windows of the text, and the blocks below it.
Key = tuple[int, Prefix]


class LayoutPass:
    """Carries the residual streams of layouts up to their last layers.

    Layouts that begin with the same blocks share a stream up to where they part. Streams are in
    memory-mapped files, and each block of a layer is loaded once for all layouts, so that memory
    holds one block and one batch, whatever the depth and the number of layouts.

    Args:
        library: The variants.
        tokens_BL: Text, (windows, length).
        together: Windows run in one batch; by default as many as activations leave room for.
        kept: Bytes of streams between layers that stay on disk from one call to the next.
        title: What is written beside a progress bar; by default there is none.
    """

    def __init__(
        self,
        library: Library,
        tokens_BL: torch.Tensor,
        *,
        together: int | None = None,
        kept: int = 0,
        title: str | None = None,
    ) -> None:
        self.title = title
        self.library, self.parent, self.tokens, self.kept = library, library.parent, tokens_BL, kept
        length = tokens_BL.shape[1]
        self.together = together or windows_together(self.parent.shape, length, self.parent.dtype)
        self.layers_run = 0
        self._streams: OrderedDict[Key, torch.Tensor] = OrderedDict()
        self._refits: dict[int, bool] = {}

    @torch.no_grad()
    def residuals(self, layouts: Sequence[Layout | None], windows: int) -> list[torch.Tensor]:
        """Returns the residual stream after the last layer of each layout.

        Args:
            layouts: The layouts; None for the parent, even where its blocks were refitted.
            windows: How many of the text's windows are read.

        Returns:
            Streams, (windows, length, hidden), in files.
        """
        depth = self.parent.shape.layers
        blocks = [self._blocks(layout) for layout in layouts]
        starts = [self._start(windows, each) for each in blocks]
        layers = range(min(starts, default=depth), depth)
        for index in counted(layers, self.title or "", "layer", shown=self.title is not None):
            reached = [max(index + 1, start) for start in starts]
            prefixes = [each[:end] for each, end in zip(blocks, reached, strict=True)]
            self._layer(index, windows, prefixes)
            self._trim({(windows, prefix) for prefix in prefixes})
        finals = [self._streams[windows, each] for each in blocks]
        self._trim(set())
        return finals

    def _blocks(self, layout: Layout | None) -> Prefix:
        own = self.parent.shape.parent_blocks
        if layout is None:
            return (None,) * len(own)
        return tuple(
            None if block == mine and not self._refitted(index) else block
            for index, (block, mine) in enumerate(zip(layout.blocks, own, strict=True))
        )

    def _refitted(self, index: int) -> bool:
        if index not in self._refits:
            self._refits[index] = self.library.refits_own(index)
        return self._refits[index]

    def _start(self, windows: int, blocks: Prefix) -> int:
        """Returns how many layers a layout shares with a stream that is there, made if need be."""
        first = len(blocks)
        while first and (windows, blocks[:first]) not in self._streams:
            first -= 1
        key = (windows, blocks[:first])
        if key in self._streams:
            self._streams.move_to_end(key)
        else:
            x_BLD = self._new(windows)
            for rows in torch.arange(windows).split(self.together):
                x_BLD[rows] = self.parent.embed(self.tokens[rows]).cpu()
            self._streams[key] = x_BLD
        return first

    def _layer(self, index: int, windows: int, prefixes: Iterable[Prefix]) -> None:
        """Computes the streams above a layer that are missing, one block after the other."""
        by_block: dict[Block | None, list[Prefix]] = {}
        for prefix in dict.fromkeys(prefixes):
            if (windows, prefix) not in self._streams:
                by_block.setdefault(prefix[-1], []).append(prefix)
        variants = self.library.variants(index) if any(by_block) else None
        for block, group in by_block.items():
            module = self._module(index, block, variants)
            for prefix in group:
                below, above = self._streams[windows, prefix[:-1]], self._new(windows)
                run_rows(self.parent, module, below, above, self.together)
                self._streams[windows, prefix] = above
                self.layers_run += 1

    def _module(self, index: int, block: Block | None, variants: Variants | None) -> nn.Module:
        if block is None:
            return self.parent.layer(index)
        assert variants is not None
        return variants.layer_module(block)

    def _new(self, windows: int) -> torch.Tensor:
        shape = (windows, self.tokens.shape[1], self.parent.shape.hidden)
        return mapped_tensor(self.library.layers[0].root, shape, self.parent.dtype)

    def _trim(self, needed: set[Key]) -> None:
        """Lets go of the streams used longest ago, down to the bytes that are kept."""
        size = sum(stream.nbytes for stream in self._streams.values())
        for key in list(self._streams):
            if size <= self.kept:
                return
            if key not in needed:
                size -= self._streams.pop(key).nbytes


def run_rows(
    parent: Parent, module: nn.Module, below: torch.Tensor, above: torch.Tensor, together: int
) -> None:
    """Runs a layer over a stream in a file, batch by batch, into another one or in place.

    Args:
        parent: The parent.
        module: The layer, on its device.
        below: The stream that enters it.
        above: Where what leaves it goes.
        together: Windows in a batch.
    """

    def run(rows: slice) -> torch.Tensor:
        return parent.run(module, below[rows].to(parent.device)).cpu()

    for rows, y_BLD in in_batches(range(len(below)), together, run):
        above[rows] = y_BLD
