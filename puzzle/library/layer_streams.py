"""What enters one layer's variants and what they should return, made from the boundaries below."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from puzzle.library.boundary import BATCH, ParentBoundary, refuse_overflow
from puzzle.library.streams import Streams
from puzzle.models.boundaries import Boundaries, in_batches
from puzzle.models.parent import Parent
from puzzle.stages import Run

# Bytes of an FFN's features that are kept at most.
KEPT = 2**29


@torch.no_grad()
def layer_streams(
    run: Run,
    index: int,
    layer: Any,
    *,
    held_out: float,
    directory: Path,
    child_x: torch.Tensor | None = None,
) -> Streams:
    """Returns the streams of one layer; the boundary above it is stored along the way.

    Args:
        run: The run.
        index: The layer's number.
        layer: The parent's layer, loaded.
        held_out: Share of the windows that are held out.
        directory: Where targets are kept while the layer is being built.
        child_x: The child's stream that enters its variants; by default the parent's.

    Raises:
        ParentError: The parent's own activations are not finite.
    """
    parent = run.parent
    x = run.get(ParentBoundary(part="fit", layer=index))
    above = torch.empty_like(x)
    targets = Boundaries(directory / "targets", tuple(x.shape), torch.float32)
    attention, update = targets[0], targets[1]
    # A child's stream gives other features.
    channels = _kept_channels(parent, index, x) if child_x is None else 0
    features = x.new_empty(*x.shape[:2], channels) if channels else None

    def run_rows(rows: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with _entering_last_map(parent, layer, None if features is None else features[rows]):
            return _halves(parent, layer, x[rows].to(parent.device))

    for rows, (added, fed, y) in in_batches(range(len(x)), BATCH, run_rows):
        refuse_overflow(y, index)
        above[rows] = y.cpu()
        behind = 0.0 if child_x is None else x[rows].float() - child_x[rows].float()
        attention[rows] = added.float().cpu() + behind
        update[rows] = added.float().cpu() + fed.float().cpu() + behind
    ParentBoundary(part="fit", layer=index + 1).publish(run, above)
    return Streams(
        x=x if child_x is None else child_x,
        attention=attention,
        update=update,
        train=Streams.split(len(x), held_out),
        child=child_x is not None,
        device=parent.device,
        features=features,
    )


def _kept_channels(parent: Parent, layer: int, x_BLD: torch.Tensor) -> int:
    """Returns how many features of the parent's FFN are kept of each token; 0 for none.

    A GPU computes them again sooner than it copies them.
    """
    ffn = parent.shape.parent_blocks[layer].ffn
    if ffn.kind != "gated" or parent.device.type != "cpu":
        return 0
    width, size = ffn.width or 0, x_BLD[..., 0].numel() * x_BLD.element_size()
    return width if width * size <= KEPT else 0


@contextmanager
def _entering_last_map(parent: Parent, layer: Any, place: torch.Tensor | None) -> Iterator[None]:
    """Copies what enters the last map of a layer's FFN to a place meanwhile."""
    if place is None:
        yield
        return
    slot = parent.family.ffn
    last: Any = getattr(getattr(layer, slot.module), slot.out)

    def copy(_: Any, entering: tuple[torch.Tensor, ...]) -> None:
        place.copy_(entering[0])

    hook = last.register_forward_pre_hook(copy)
    try:
        yield
    finally:
        hook.remove()


def _halves(
    parent: Parent, layer: Any, x_BLD: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns what attention and FFN add, and the stream after them."""
    rope = parent.rope(x_BLD.shape[1])
    family, config = parent.family, parent.config
    added = family.attention_update(layer, x_BLD, rope, config)
    middle = x_BLD + added
    fed = family.ffn_update(layer, middle, config)
    return added, fed, middle + fed
