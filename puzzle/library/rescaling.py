"""What comes after the last map of a half in some families: a norm, a multiplier."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from puzzle.models.parent import Parent
from puzzle.models.slots import Slot

# Channels that a norm scales by less are not fitted to.
SMALLEST_GAIN = 1e-3
Pair = tuple[torch.Tensor, torch.Tensor]


class Rescaling:
    """The norm and the multiplier between a half's last map and the residual stream.

    Args:
        parent: The parent.
        layer: The parent's layer.
        slot: The half.
    """

    def __init__(self, parent: Parent, layer: nn.Module, slot: Slot) -> None:
        self.family, self.config, self.layer, self.slot = parent.family, parent.config, layer, slot
        self.neutral = slot.after is None and self.family.residual_scale(parent.config) == 1.0

    def added(self, out_BLD: torch.Tensor) -> torch.Tensor:
        """Returns what is added to the residual stream, from what the last map returns."""
        return self.family.added(self.layer, self.slot, out_BLD, self.config)

    def undone(self, own_BLD: torch.Tensor, pair: Pair) -> Pair:
        """Returns features and targets of the last map alone, for a fit in closed form.

        The norm divides by the size of what the parent's own map returns, token by token; taken as
        given, that weights each token by it.

        Args:
            own_BLD: What the parent's last map returns.
            pair: What enters the variant's last map, and what the half should add to the stream.
        """
        phi, target = pair
        target = target / self.family.residual_scale(self.config)
        if self.slot.after is None:
            return phi, target
        norm: Any = getattr(self.layer, self.slot.after)
        gain = norm(torch.ones_like(own_BLD[:1, :1])).float()
        gain = torch.where(gain.abs() < SMALLEST_GAIN, SMALLEST_GAIN, gain)
        inverse_size = own_BLD.float().square().mean(-1, keepdim=True).add(1e-6).rsqrt()
        return phi.float() * inverse_size, target / gain
