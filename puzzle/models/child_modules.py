"""Modules that children have in place of the stock ones, and configs as their layers read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class LinearSublayer(nn.Module):
    """One linear map of the normed residual stream, in place of an attention or an FFN."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns the map of the input, (B, L, hidden)."""
        return self.linear_proj(hidden_states)


class RepeatedHeads(nn.Module):
    """A map to keys and values that gives each head several times in a row.

    Args:
        linear: The map.
        head_dim: Channels per head.
        times: How often each head is given.
        queries: Heads of queries that come before them, once.
    """

    def __init__(self, linear: nn.Module, head_dim: int, times: int, queries: int = 0) -> None:
        super().__init__()
        self.linear, self.head_dim, self.times, self.queries = linear, head_dim, times, queries

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns the repeated heads, (B, L, (queries + heads * times) * head_dim)."""
        heads_BLHD = self.linear(hidden_states).unflatten(-1, (-1, self.head_dim))
        queries, rest = heads_BLHD[..., : self.queries, :], heads_BLHD[..., self.queries :, :]
        repeated = rest.repeat_interleave(self.times, dim=-2)
        return torch.cat([queries, repeated], dim=-2).flatten(-2)


class LayerConfig:
    """A model's config as one layer reads it: with sizes of its own, all else as it is now.

    Args:
        config: The model's config.
        sizes: The layer's own.
    """

    def __init__(self, config: Any, **sizes: Any) -> None:
        self.model_config = config
        self.__dict__.update(sizes)

    def __getattr__(self, name: str) -> Any:
        if name == "model_config":  # not set yet, while it is copied
            raise AttributeError(name)
        return getattr(self.model_config, name)
