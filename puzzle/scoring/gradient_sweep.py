"""A forward and a backward sweep over a model, one layer at a time: gradients at every boundary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from puzzle.library.build import Library
from puzzle.library.layer_outputs import LayerOutputs
from puzzle.library.variants import Variants
from puzzle.models.boundaries import Boundaries, mapped_tensor
from puzzle.progress.bars import counted
from puzzle.scoring.reference import Reference
from puzzle.scoring.scores import stretch_means
from search_space import Block, Layout, SearchSpace

# Windows run together.
BATCH = 4
# Neighbouring positions whose changes are summed; docs/results/scores.md compares other numbers.
TOGETHER = 8
Samples = list[dict[str, list[float]]]


def second_order(a_KBL: torch.Tensor) -> torch.Tensor:
    """Returns (sum of a)^2 / 2 over groups of `TOGETHER` positions, evenly shared among them.

    Args:
        a_KBL: g . delta per probe, window and position.
    """
    length = a_KBL.shape[-1]
    padded = nn.functional.pad(a_KBL, (0, -length % TOGETHER))
    sums = padded.unflatten(-1, (-1, TOGETHER)).sum(-1)
    sizes = torch.full((sums.shape[-1],), float(TOGETHER), device=sums.device)
    sizes[-1] -= -length % TOGETHER
    return (sums.square() / (2 * sizes)).repeat_interleave(TOGETHER, -1)[..., :length]


def batches(x_BLD: torch.Tensor) -> list[slice]:
    """Returns the windows of a stream that are run together."""
    return [slice(start, start + BATCH) for start in range(0, len(x_BLD), BATCH)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerGradients:
    """What scores the blocks of one layer, without the layers around it.

    Args:
        x: The stream that enters the layer, (windows, length, hidden).
        y: The stream that leaves the layer that is swept. It is kept, not computed again, because
            a pass without gradients may differ from it in the last bits.
        g: The gradients above the layer, (cotangents, windows, length, hidden).
    """

    x: torch.Tensor
    y: torch.Tensor
    g: torch.Tensor

    def changes(
        self, variants: Variants, blocks: Iterable[Block]
    ) -> Iterator[tuple[Block, torch.Tensor]]:
        """Yields (block, g.delta per cotangent, window and position), a batch of windows at a time.

        Args:
            variants: The layer's weights.
            blocks: The blocks; one half of one is in memory at a time.
        """
        device, outputs = variants.parent.device, LayerOutputs(variants)
        with torch.no_grad():
            for block, rows, out in outputs.in_turn(blocks, self.x, batches(self.x)):
                delta = out.float() - self.y[rows].to(device).float()
                g_KBLD = self.g[:, rows].to(device).float()
                yield block, torch.einsum("kbld,bld->kbl", g_KBLD, delta)

    def observations(
        self, variants: Variants, own: Block, blocks: Iterable[Block]
    ) -> dict[str, list[float]]:
        """Returns one observation per probe and stretch of text, by the label of a block.

        Args:
            variants: The layer's weights.
            own: The block that the swept layer has, which changes nothing.
            blocks: The blocks.
        """
        others = [block for block in blocks if block != own]
        row: dict[str, list[float]] = {own.label: [0.0]}
        # In the order of attentions, whatever the order in which blocks are run.
        row |= {block.label: [] for block in sorted(others, key=lambda each: each.attention.label)}
        for block, a_KBL in self.changes(variants, others):
            # Probes innermost, so that neighbouring observations are of different probes.
            columns = [stretch_means(one) for one in second_order(a_KBL)]
            row[block.label] += [v for each in zip(*columns, strict=True) for v in each]
        return row


class GradientSweep:
    """A forward and a backward sweep over the parent, or over a child of the library.

    Args:
        library: The variants.
        tokens_BL: Score windows.
        directory: Where boundaries are kept.
        probes: Probes drawn, K.
        layout: The model to sweep over; the parent if not given.
        reference: The parent's outputs on the windows; with them, the gradient of
            KL(parent || swept model) is computed as well, and comes after the probes.
    """

    def __init__(
        self,
        library: Library,
        tokens_BL: torch.Tensor,
        directory: Path,
        probes: int,
        *,
        layout: Layout | None = None,
        reference: Reference | None = None,
    ) -> None:
        self.library, self.parent = library, library.parent
        self.tokens, self.probes, self.reference = tokens_BL, probes, reference
        self.layout = layout or Layout.parent(self.parent.shape)
        self.cotangents = probes + (reference is not None)
        shape = (*tokens_BL.shape, self.parent.shape.hidden)
        folders = [directory / name for name in ("x", "g")]
        self.x = Boundaries(folders[0], shape, self.parent.dtype)
        self.g = Boundaries(folders[1], (self.cotangents, *shape), self.parent.dtype)

    def _layer(self, index: int) -> nn.Module:
        parent, block = self.parent, self.layout.blocks[index]
        if block == parent.shape.parent_blocks[index]:
            return parent.layer(index)
        return self.library.variants(index).layer_module(block)

    @torch.no_grad()
    def forward(self) -> None:
        """Stores the residual stream at every layer boundary."""
        parent, depth = self.parent, self.parent.shape.layers
        self.x[0].copy_(parent.embed(self.tokens))
        for index in counted(range(depth), "fisher, forward", "layer"):
            layer, below, above = self._layer(index), self.x[index], self.x[index + 1]
            for rows in batches(below):
                above[rows] = parent.run(layer, below[rows].to(parent.device)).cpu()

    def probe(self, seed: int) -> None:
        """Draws the probes and stores their gradients at the last boundary."""
        depth, device = self.parent.shape.layers, self.parent.device
        head, generator = self.parent.head(), torch.Generator().manual_seed(seed)
        x, g = self.x[depth], self.g[depth]
        for row in counted(range(len(self.tokens)), "fisher, probes", "window"):
            x_LD = x[row].to(device, copy=True).requires_grad_(True)
            logits = head(x_LD).float()
            p = torch.softmax(logits.detach(), -1)
            root = p.sqrt()
            for k in range(self.cotangents):
                if k < self.probes:
                    eps = torch.randn(p.shape, generator=generator).to(device)
                    u = root * eps - p * (root * eps).sum(-1, keepdim=True)
                else:
                    u = p - self._parents(row)
                keep = k + 1 < self.cotangents
                (gradient,) = torch.autograd.grad(logits, x_LD, u, retain_graph=keep)
                g[k, row] = gradient.cpu()

    def _parents(self, row: int) -> torch.Tensor:
        assert self.reference is not None
        return self.reference.distribution(row)

    def backward(self, space: SearchSpace) -> Samples:
        """Returns, per layer and block, one observation per probe and stretch of text."""
        samples: Samples = [{block.label: [0.0]} for block in self.layout.blocks]
        for index, gradients in self.layers():
            variants = self.library.variants(index)
            own = self.layout.blocks[index]
            samples[index] = gradients.observations(variants, own, space.blocks(index))
        return samples

    def changes(self, space: SearchSpace) -> Iterator[tuple[int, str, torch.Tensor]]:
        """Yields (layer, block label, g.delta) from the top down, a batch of windows of a block.

        g.delta is per cotangent, window and position. The swept model's own blocks, which change
        nothing, are left out. One half of a block is in memory at a time.
        """
        for index, gradients in self.layers():
            own = self.layout.blocks[index]
            others = [block for block in space.blocks(index) if block != own]
            for block, a_KBL in gradients.changes(self.library.variants(index), others):
                yield index, block.label, a_KBL

    def layers(self) -> Iterator[tuple[int, LayerGradients]]:
        """Yields each layer's number and what scores its blocks, from the top down, once."""
        depth, device = self.parent.shape.layers, self.parent.device
        root = self.library.layers[0].root
        for index in counted(reversed(range(depth)), "fisher", "layer", depth):
            x, above, below = self.x[index], self.g[index + 1], self.g[index]
            layer, y = self._layer(index), mapped_tensor(root, tuple(x.shape), self.parent.dtype)
            for rows in batches(x):
                x_BLD, g_KBLD = x[rows].to(device), above[:, rows].to(device)
                y[rows] = self._through(layer, x_BLD, g_KBLD, below[:, rows]).cpu()
            del layer
            yield index, LayerGradients(x=x, y=y, g=above)
            self.g.drop(index + 1)

    def _through(
        self,
        layer: nn.Module,
        x_BLD: torch.Tensor,
        g_KBLD: torch.Tensor,
        out_KBLD: torch.Tensor,
    ) -> torch.Tensor:
        """Stores the gradients below a layer; returns the layer's output."""
        x_BLD = x_BLD.clone().requires_grad_(True)
        y = self.parent.run(layer, x_BLD)
        for k in range(self.cotangents):
            keep = k + 1 < self.cotangents
            (gradient,) = torch.autograd.grad(y, x_BLD, g_KBLD[k], retain_graph=keep)
            out_KBLD[k] = gradient.cpu()
        return y.detach()
