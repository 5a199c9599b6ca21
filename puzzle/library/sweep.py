"""The forward sweep: one layer of the parent at a time, over activations kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from puzzle.errors import ParentError
from puzzle.library.layer_outputs import LayerOutputs
from puzzle.library.streams import BATCH, Streams
from puzzle.library.variants import Variants
from puzzle.models.boundaries import Boundaries, in_batches
from puzzle.models.parent import Parent
from search_space import Block


class Sweep:
    """Carries the parent's residual stream, and a child's beside it, from layer to layer.

    Args:
        parent: The parent.
        tokens_BL: Windows of text.
        directory: Where activations are kept.
        held_out: Share of the windows that are held out.
        child: Whether a child's stream is carried too.
    """

    def __init__(
        self,
        parent: Parent,
        tokens_BL: torch.Tensor,
        directory: Path,
        held_out: float,
        *,
        child: bool,
    ) -> None:
        self.parent, self.child = parent, child
        self.count = len(tokens_BL)
        self.train = Streams.split(self.count, held_out)
        shape = (*tokens_BL.shape, parent.shape.hidden)
        self.x = Boundaries(directory / "parent", shape, parent.dtype)
        self.child_x = Boundaries(directory / "child", shape, parent.dtype) if child else self.x
        self.targets = Boundaries(directory / "targets", shape, torch.float32)
        embedding = parent.embed(tokens_BL)
        self.x[0].copy_(embedding)
        self.child_x[0].copy_(embedding)

    def enter(self, index: int) -> tuple[nn.Module, Streams]:
        """Returns the parent's layer and what its variants see; the stream above is made too.

        Raises:
            ParentError: The parent's own activations are not finite.
        """
        layer = self.parent.layer(index)
        x, above, child_x = self.x[index], self.x[index + 1], self.child_x[index]
        attention, update = self.targets[0], self.targets[1]

        def run(rows: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return self._halves(layer, x[rows].to(self.parent.device))

        for rows, (added, fed, y) in in_batches(range(self.count), BATCH, run):
            if not bool(torch.isfinite(y).all()):
                raise ParentError(
                    f"layer {index} of the parent gives values that {self.parent.dtype} cannot "
                    "hold on this text; open it in bfloat16 or float32 (weight_dtype of the "
                    "scenario)"
                )
            above[rows] = y.cpu()
            behind = (x[rows].float() - child_x[rows].float()) if self.child else 0.0
            attention[rows] = added.float().cpu() + behind
            update[rows] = added.float().cpu() + fed.float().cpu() + behind
        streams = Streams(
            x=child_x,
            attention=attention,
            update=update,
            train=self.train,
            child=self.child,
            device=self.parent.device,
        )
        return layer, streams

    def _halves(
        self, layer: Any, x_BLD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns what attention and FFN add, and the stream after them."""
        rope = self.parent.rope(x_BLD.shape[1])
        features = self.parent.family.attention_features(layer, x_BLD, rope)
        added = layer.self_attn.o_proj(features)
        middle = x_BLD + added
        fed = layer.mlp(layer.post_attention_layernorm(middle))
        return added, fed, middle + fed

    def leave(self, index: int, variants: Variants, block: Block | None) -> None:
        """Takes the child's stream through a block, and drops what is below."""
        if block is not None:
            outputs, below, above = (
                LayerOutputs(variants),
                self.child_x[index],
                self.child_x[index + 1],
            )
            run: Callable[[slice], torch.Tensor] = lambda rows: next(  # noqa: E731
                outputs([block], below[rows].to(self.parent.device))
            )[1]
            for rows, y in in_batches(range(self.count), BATCH, run):
                above[rows] = y.cpu()
            self.child_x.drop(index)
        self.x.drop(index)
