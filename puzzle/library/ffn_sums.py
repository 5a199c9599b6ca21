"""What the fits of all widths of one layer's FFN share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from puzzle.library.least_squares import HeldOut, Moments
from search_space import Attention


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FFNSums:
    """What the fits of all widths of the FFN behind one attention share.

    Args:
        attention: The attention.
        wide: The moments of the fitted windows and the tokens of those held out, of all channels.
        down: The parent's last map, (channels, hidden), its bias as one more row.
        order: Channels, the most important first.
        power: What errors are a share of.
    """

    attention: Attention
    wide: tuple[Moments, HeldOut]
    down: torch.Tensor
    order: torch.Tensor
    power: float
