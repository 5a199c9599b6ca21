"""The parent's outputs on some text, and how far other outputs are from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# The parent's next-token distributions are kept up to this size, and recomputed beyond it.
CACHED_BYTES = 2**29
DISTANCES = ("kl", "cosine")


class Reference:
    """What the parent's last layer returns on some windows.

    Args:
        head: The parent's final norm and output head.
        y_BLD: Residual stream after the parent's last layer, (windows, length, hidden).
    """

    def __init__(self, head: nn.Sequential, y_BLD: torch.Tensor) -> None:
        self.head, self.y = head, y_BLD
        self.device = next(head.parameters()).device
        vocab: Any = head[1].out_features
        fits = 4 * vocab * y_BLD.shape[0] * y_BLD.shape[1] <= CACHED_BYTES
        self._cached = [self._output(y_LD) for y_LD in y_BLD] if fits else None

    def distance(self, name: str, x_BLD: torch.Tensor) -> torch.Tensor:
        """Returns one of `DISTANCES` by name, per token."""
        return self.kl(x_BLD) if name == "kl" else self.cosine(x_BLD)

    def kl(self, x_BLD: torch.Tensor) -> torch.Tensor:
        """Returns KL(parent || other) per token, (windows, length).

        Args:
            x_BLD: Residual stream after the last layer of the other model, on the first windows.
        """
        return torch.stack([self._row_kl(row, x_LD) for row, x_LD in enumerate(x_BLD)])

    def cosine(self, x_BLD: torch.Tensor) -> torch.Tensor:
        """Returns 1 - cosine similarity of the normed final hidden states, per token."""
        norm: Any = self.head[0]
        ours, theirs = (norm(y.to(self.device)).float() for y in (x_BLD, self.y[: len(x_BLD)]))
        return 1.0 - nn.functional.cosine_similarity(ours, theirs, dim=-1)

    def distribution(self, row: int) -> torch.Tensor:
        """Returns the parent's next-token probabilities on one window, (length, vocab)."""
        return self._row(row)[0]

    def _row_kl(self, row: int, x_LD: torch.Tensor) -> torch.Tensor:
        p_LV, negative_entropy_L = self._row(row)
        # sum p (log p - log q), written so that log q, as large as the logits, is never stored.
        z_LV = self.head(x_LD.to(self.device)).float()
        expected_L = torch.bmm(p_LV[:, None], z_LV[:, :, None])[:, 0, 0]
        return negative_entropy_L - expected_L + torch.logsumexp(z_LV, -1)

    def _row(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._output(self.y[row]) if self._cached is None else self._cached[row]

    def _output(self, y_LD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_p_LV = torch.log_softmax(self.head(y_LD.to(self.device)).float(), -1)
        p_LV = log_p_LV.exp()
        return p_LV, torch.bmm(p_LV[:, None], log_p_LV[:, :, None])[:, 0, 0]
