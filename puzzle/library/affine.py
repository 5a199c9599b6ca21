"""Maps as matrices from the left, with their bias as one more row."""

from __future__ import annotations

from typing import Any

import torch


def map_of(linear: Any) -> torch.Tensor:
    """Returns the map of a linear sublayer, (d, d)."""
    weight: torch.Tensor = linear.linear_proj.weight
    return weight.T.float()


def map_with_bias(weight_DK: torch.Tensor, bias_D: torch.Tensor | None) -> torch.Tensor:
    """Returns a map as (k, d), with its bias as one more row."""
    weight = weight_DK.T.float()
    return weight if bias_D is None else torch.cat([weight, bias_D.float()[None]])


def map_tensors(
    name: str, weight_KD: torch.Tensor, bias_D: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Returns the tensors of a map called `name` from what `map_with_bias` made of it."""
    if bias_D is None:
        return {f"{name}.weight": weight_KD.T}
    return {f"{name}.weight": weight_KD[:-1].T, f"{name}.bias": weight_KD[-1]}


def ones(phi: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Returns features with a one appended where the map has a bias."""
    return phi if bias is None else torch.cat([phi, torch.ones_like(phi[..., :1])], -1)
