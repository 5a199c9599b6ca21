"""Family: all that differs from one model family to the next, so that a new one is one file."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from search_space import ModelShape

Rope = tuple[torch.Tensor, torch.Tensor]


class Family(Protocol):
    """What the library needs to know about a model family.

    Attributes:
        model_types: The `model_type` values of the configs it understands.
        layer_prefix: Tensor name prefix of layer i, with `{}` for i.
        embedding: Tensor name of the input embedding.
        norm: Tensor name of the final norm.
        head: Tensor name of an untied output head.
    """

    model_types: tuple[str, ...]
    layer_prefix: str
    embedding: str
    norm: str
    head: str

    def shape(self, config: Any) -> ModelShape:
        """Returns the sizes of the model, or raises ParentError for a variant not covered."""
        ...

    def layer(self, config: Any, index: int) -> nn.Module:
        """Returns an unloaded decoder layer of the stock transformers class."""
        ...

    def final_norm(self, config: Any) -> nn.Module:
        """Returns an unloaded final norm."""
        ...

    def rope(self, config: Any, length: int) -> Rope:
        """Returns the rotary cosines and sines for positions 0 to length - 1."""
        ...

    def run(self, layer: nn.Module, x_BLD: torch.Tensor, rope: Rope) -> torch.Tensor:
        """Returns the residual stream after a decoder layer, causal, without a cache."""
        ...

    def attention_features(self, layer: nn.Module, x_BLD: torch.Tensor, rope: Rope) -> torch.Tensor:
        """Returns what enters the last linear map of the attention, (B, L, heads * head_dim)."""
        ...
