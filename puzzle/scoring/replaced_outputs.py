"""What leaves a parent with one block replaced, for many blocks in one pass, layer outermost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from puzzle.library.layer_outputs import LayerOutputs
from puzzle.library.layout_pass import run_rows
from puzzle.library.variants import Variants
from puzzle.models.boundaries import mapped_tensor
from puzzle.models.parent import Parent
from puzzle.progress.bars import counted
from search_space import Block

# Blocks whose streams run in one batch.
PACK = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replaced:
    """The blocks of one layer that are put into the parent, each alone.

    Args:
        variants: The layer's weights.
        blocks: The blocks.
        x: The parent's stream that enters the layer, (windows, length, hidden).
    """

    variants: Variants
    blocks: tuple[Block, ...]
    x: torch.Tensor


class ReplacedOutputs:
    """Carries the streams of replaced blocks up through the parent's layers.

    Streams are in memory-mapped files, and each of the parent's layers is read once for all of
    them: memory holds one layer and one batch.

    Args:
        parent: The parent.
        together: Windows in a batch at most.
    """

    def __init__(self, parent: Parent, together: int) -> None:
        self.parent, self.together = parent, together

    @torch.no_grad()
    def run(self, wanted: Mapping[int, Replaced]) -> Iterator[tuple[int, Block, torch.Tensor]]:
        """Yields (layer, block, stream after the parent's last layer).

        Args:
            wanted: What is replaced, by layer.
        """
        carried: list[tuple[int, list[Block], torch.Tensor]] = []
        layers = range(min(wanted, default=0), self.parent.shape.layers if wanted else 0)
        for index in counted(layers, "layers above", "layer", leave=False):
            if carried:
                layer = self.parent.layer(index)
                for _, _, pack in carried:
                    run_rows(self.parent, layer, pack, pack, self.together)
                del layer
            if index in wanted:
                carried += [(index, *pack) for pack in self._replaced(wanted[index])]
        for layer_number, blocks, pack in carried:
            for block, y_BLD in zip(blocks, pack.split(len(pack) // len(blocks)), strict=True):
                yield layer_number, block, y_BLD

    def _replaced(self, given: Replaced) -> list[tuple[list[Block], torch.Tensor]]:
        """Returns blocks in packs, and the streams after them, one below the other."""
        ordered = sorted(given.blocks, key=lambda block: block.attention.label)
        windows, *rest = given.x.shape
        root = given.variants.artifact.root
        packs = []
        for start in range(0, len(ordered), PACK):
            blocks = ordered[start : start + PACK]
            shape = (windows * len(blocks), *rest)
            packs.append((blocks, mapped_tensor(root, shape, self.parent.dtype)))
        places = {
            block: pack[at * windows : (at + 1) * windows]
            for blocks, pack in packs
            for at, block in enumerate(blocks)
        }
        together = range(0, windows, self.together)
        parts = [slice(at, min(at + self.together, windows)) for at in together]
        for block, part, y_BLD in LayerOutputs(given.variants).in_turn(ordered, given.x, parts):
            places[block][part] = y_BLD.cpu()
        return packs
