"""Running a layer's blocks: each attention once, then the FFNs that go with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
from torch import nn

from puzzle.child import layer_from_block
from puzzle.library.variants import ATTENTION, FEED_FORWARD, Variants
from search_space import FFN, Attention, Block

NO_ATTENTION, NO_FFN = Attention("none"), FFN("none")


class LayerOutputs:
    """One layer's blocks as modules, each half built when first needed.

    Args:
        variants: The layer's weights.
    """

    def __init__(self, variants: Variants) -> None:
        self.variants = variants
        self._halves: dict[str, nn.Module] = {}

    def __call__(
        self, blocks: Iterable[Block], x_BLD: torch.Tensor
    ) -> Iterator[tuple[Block, torch.Tensor]]:
        """Yields (block, residual stream after it); blocks with one attention come together."""
        ordered = sorted(blocks, key=lambda block: block.attention.label)
        for _, group in groupby(ordered, key=lambda block: block.attention):
            middle = None
            for block in group:
                if middle is None:
                    middle = self._attention(block, x_BLD)
                yield block, self._ffn(block, middle)

    def _attention(self, block: Block, x_BLD: torch.Tensor) -> torch.Tensor:
        if block.attention.kind == "none":
            return x_BLD
        half = Block(block.attention, NO_FFN)
        return self._run(half, block, ATTENTION, half.label, x_BLD)

    def _ffn(self, block: Block, x_BLD: torch.Tensor) -> torch.Tensor:
        if block.ffn.kind == "none":
            return x_BLD
        half = Block(NO_ATTENTION, block.ffn)
        key = self.variants.ffn_key(block)
        return self._run(half, block, FEED_FORWARD, key, x_BLD)

    def _run(
        self, half: Block, whole: Block, names: tuple[str, ...], key: str, x_BLD: torch.Tensor
    ) -> torch.Tensor:
        parent = self.variants.parent
        if key not in self._halves:
            found = self.variants.block_tensors(whole)
            tensors = {name: value for name, value in found.items() if name.startswith(names)}
            index = self.variants.layer
            module = layer_from_block(parent.config, parent.shape, index, half, tensors)
            self._halves[key] = module.to(parent.device)
        return parent.run(self._halves[key], x_BLD)
