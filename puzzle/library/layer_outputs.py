"""Running a layer's blocks: each attention once, then the FFNs that go with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
from torch import nn

from puzzle.library.variants import Variants
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
        return self._run(half, block, half.label, x_BLD)

    def _ffn(self, block: Block, x_BLD: torch.Tensor) -> torch.Tensor:
        if block.ffn.kind == "none":
            return x_BLD
        return self._run(Block(NO_ATTENTION, block.ffn), block, self.variants.ffn_key(block), x_BLD)

    def _run(self, half: Block, whole: Block, key: str, x_BLD: torch.Tensor) -> torch.Tensor:
        if key not in self._halves:
            self._halves[key] = self.variants.half_module(half, whole)
        return self.variants.parent.run(self._halves[key], x_BLD)
