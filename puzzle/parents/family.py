"""Family: all that differs from one model family to the next, so that a new one is one file."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from puzzle.errors import ParentError
from search_space import ModelShape

Rope = tuple[torch.Tensor, torch.Tensor]


class Family(Protocol):
    """What the library needs to know of a model family.

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


FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> None:
    """Makes a family known for each of its model types."""
    FAMILIES.update(dict.fromkeys(family.model_types, family))


def family_of(config: Any) -> Family:
    """Returns the family of a config.

    Raises:
        ParentError: The family is unknown; the message lists those known.
    """
    model_type = getattr(config, "model_type", None)
    if model_type not in FAMILIES:
        raise ParentError(
            f"model family {model_type!r} is not supported; known families: {sorted(FAMILIES)}"
        )
    return FAMILIES[model_type]
