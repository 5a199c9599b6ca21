"""Running a layer's blocks: each attention once, then the FFNs that go with it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import groupby

import torch
from torch import nn

from puzzle.library.variants import Variants
from puzzle.models.boundaries import mapped_tensor
from search_space import FFN, Attention, Block

NO_ATTENTION, NO_FFN = Attention("none"), FFN("none")


class LayerOutputs:
    """One layer's blocks as modules, each half built when first needed.

    Args:
        variants: The layer's weights.
    """

    def __init__(self, variants: Variants) -> None:
        self.variants = variants
        self._halves: dict[Hashable, nn.Module] = {}

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

    def in_turn(
        self, blocks: Iterable[Block], x_BLD: torch.Tensor, parts: Sequence[slice]
    ) -> Iterator[tuple[Block, slice, torch.Tensor]]:
        """Yields (block, windows, residual stream after it); one half is in memory at a time.

        All attentions come first, with the streams after them in files, and then each FFN behind
        those that it goes with.

        Args:
            blocks: The blocks.
            x_BLD: The stream that enters the layer.
            parts: Its windows, in the batches that are run.
        """
        middles: dict[Attention, torch.Tensor] = {}
        behind: dict[tuple[str, str | None] | None, list[Block]] = {}
        for block in blocks:
            middles.setdefault(block.attention, x_BLD)
            none = block.ffn.kind == "none"
            behind.setdefault(None if none else self._ffn_key(block), []).append(block)
        for attention in middles:
            if attention.kind != "none":
                half = Block(attention, NO_FFN)
                middles[attention] = self._to_file(
                    self.variants.half_module(half, half), x_BLD, parts
                )
        for key, group in behind.items():
            ffn = Block(NO_ATTENTION, group[0].ffn)
            second = None if key is None else self.variants.half_module(ffn, group[0])
            for block in group:
                for part in parts:
                    middle = middles[block.attention][part].to(self.variants.parent.device)
                    yield block, part, middle if second is None else self._through(second, middle)

    def _to_file(
        self, module: nn.Module, x_BLD: torch.Tensor, parts: Sequence[slice]
    ) -> torch.Tensor:
        parent = self.variants.parent
        above = mapped_tensor(self.variants.artifact.root, tuple(x_BLD.shape), parent.dtype)
        for part in parts:
            above[part] = self._through(module, x_BLD[part].to(parent.device)).cpu()
        return above

    def _through(self, module: nn.Module, x_BLD: torch.Tensor) -> torch.Tensor:
        return self.variants.parent.run(module, x_BLD)

    def _attention(self, block: Block, x_BLD: torch.Tensor) -> torch.Tensor:
        if block.attention.kind == "none":
            return x_BLD
        half = Block(block.attention, NO_FFN)
        return self._run(half, block, half.label, x_BLD)

    def _ffn(self, block: Block, x_BLD: torch.Tensor) -> torch.Tensor:
        if block.ffn.kind == "none":
            return x_BLD
        return self._run(Block(NO_ATTENTION, block.ffn), block, self._ffn_key(block), x_BLD)

    def _ffn_key(self, block: Block) -> tuple[str, str | None]:
        """Returns the name of a block's FFN, and the format of its weights."""
        return self.variants.ffn_key(block), block.ffn.weights

    def _run(self, half: Block, whole: Block, key: Hashable, x_BLD: torch.Tensor) -> torch.Tensor:
        if key not in self._halves:
            self._halves[key] = self.variants.half_module(half, whole)
        return self._through(self._halves[key], x_BLD)
