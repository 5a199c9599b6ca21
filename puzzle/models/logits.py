"""What some families do to the products of their output head."""

from __future__ import annotations

import torch
from torch import nn


class LogitScale(nn.Module):
    """Logits divided by a constant, or squashed to a range, as the family's head does it."""

    def __init__(self, divisor: float | None, cap: float | None) -> None:
        super().__init__()
        self.divisor, self.cap = divisor, cap

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns the logits, of the same shape."""
        if self.divisor is not None:
            logits = logits / self.divisor
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap
