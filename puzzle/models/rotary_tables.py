"""Rotary tables: cosines and sines of positions, for all layers or by the type of a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

Tables = tuple[torch.Tensor, torch.Tensor]
# Rotary cosines and sines, for all layers or by the type of a layer.
Rope = Tables | Mapping[str, Tables]


def map_rope(rope: Rope, change: Callable[[torch.Tensor], torch.Tensor]) -> Rope:
    """Returns rotary tables after a change of each."""
    if isinstance(rope, Mapping):
        return {kind: (change(cos), change(sin)) for kind, (cos, sin) in rope.items()}
    return change(rope[0]), change(rope[1])
