"""Mixtures of experts: what each expert's last map is given, and the tensors of some experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from puzzle.models.slots import Experts

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Routed:
    """The tokens that pass through one expert.

    Args:
        expert: Its number.
        tokens: Which tokens of the flattened batch.
        gates: Their gates, (n, 1).
        features: What enters the expert's last map, times the gate, (n, channels).
    """

    expert: int
    tokens: torch.Tensor
    gates: torch.Tensor
    features: torch.Tensor


def routed(experts: Experts, mixture: nn.Module, h_TD: torch.Tensor) -> Iterator[Routed]:
    """Yields the tokens of each expert that has some, as the family's router sends them.

    Args:
        experts: Where the parts of the mixture are.
        mixture: The mixture.
        h_TD: What enters it, (tokens, hidden).
    """
    maps: Any = getattr(mixture, experts.experts)
    router: Any = getattr(mixture, experts.router)
    _, gates_TK, chosen_TK = router(h_TD)
    for expert in chosen_TK.unique().tolist():
        tokens, place = (chosen_TK == expert).nonzero(as_tuple=True)
        gates = gates_TK[tokens, place, None]
        weight, bias = _of_expert(maps, experts.up, expert)
        weight = weight.T if experts.transposed else weight
        inner = maps._apply_gate(nn.functional.linear(h_TD[tokens], weight, bias))
        yield Routed(expert=expert, tokens=tokens, gates=gates, features=inner * gates)


def down_map(experts: Experts, mixture: nn.Module, expert: int) -> torch.Tensor:
    """Returns the last map of an expert, (channels, hidden), its bias as one more row."""
    maps: Any = getattr(mixture, experts.experts)
    weight, bias = _of_expert(maps, experts.down, expert)
    rows = weight if experts.transposed else weight.T
    return rows.float() if bias is None else torch.cat([rows, bias[None]]).float()


def _of_expert(maps: Any, name: str, expert: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    bias = getattr(maps, f"{name}_bias", None)
    return getattr(maps, name)[expert], None if bias is None else bias[expert]


def down_tensors(
    experts: Experts, module: str, mixture: nn.Module, maps: list[torch.Tensor]
) -> Tensors:
    """Returns the tensors of the last maps of all experts, by name within the layer.

    Args:
        experts: Where the parts of the mixture are.
        module: The name of the mixture within the layer.
        mixture: A mixture of the same sizes.
        maps: The map of each expert, as `down_map` returns it.
    """
    stacked, parts = torch.stack(maps), getattr(mixture, experts.experts)
    name = f"{module}.{experts.experts}.{experts.down}"
    channels = getattr(parts, experts.down).shape[1 if experts.transposed else 2]
    weight = stacked[:, :channels]
    tensors = {name: weight if experts.transposed else weight.transpose(1, 2)}
    return tensors | ({f"{name}_bias": stacked[:, -1]} if parts.has_bias else {})


# What a mixture has beside its experts, for all tokens.
SHARED = ".shared_expert"


class Nothing(nn.Module):
    """Experts that add nothing."""

    def forward(self, hidden_states: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        """Returns zeros, of the same shape."""
        return torch.zeros_like(hidden_states)


def shared_output(experts: Experts, mixture: Any, h_TD: torch.Tensor) -> torch.Tensor:
    """Returns what a mixture gives tokens beside what its experts do, (T, D).

    Args:
        experts: Where the parts of the mixture are.
        mixture: The mixture.
        h_TD: The tokens that enter it.
    """
    if not any(SHARED in f".{name}" for name, _ in mixture.named_parameters()):
        return torch.zeros_like(h_TD)
    own = mixture._modules[experts.experts]
    mixture._modules[experts.experts] = Nothing()
    try:
        out = mixture(h_TD[None])
    finally:
        mixture._modules[experts.experts] = own
    shared: torch.Tensor = (out[0] if isinstance(out, tuple) else out)[0]
    return shared


def of_experts(tensors: Mapping[str, torch.Tensor], module: str, kept: torch.Tensor) -> Tensors:
    """Returns the tensors of half a layer with some of its experts alone.

    Args:
        tensors: Those of the half and its norms, by name within the layer.
        module: The name of the half: all below it but what is shared have one entry per expert.
        kept: The numbers of the experts.
    """
    inside = f"{module}."
    return {
        name: tensor[kept.to(tensor.device)]
        if name.startswith(inside) and SHARED not in name
        else tensor
        for name, tensor in tensors.items()
    }


def of_channels(
    experts: Experts, tensors: Mapping[str, torch.Tensor], module: str, kept_EC: torch.Tensor
) -> Tensors:
    """Returns the tensors of half a layer with some channels of each of its experts alone.

    Args:
        experts: Where the parts of the mixture are.
        tensors: Those of the half and its norms, by name within the layer.
        module: The name of the half.
        kept_EC: The numbers of the channels, as many of each expert.
    """
    prefix = f"{module}.{experts.experts}."
    down = tensors[prefix + experts.down]
    width, kept_EC = down.shape[1 if experts.transposed else 2], kept_EC.to(down.device)
    if experts.interleaved:
        rows = torch.stack([2 * kept_EC, 2 * kept_EC + 1], -1).flatten(1)
    else:
        rows = torch.cat([kept_EC, kept_EC + width], 1)
    # The rows that are kept, and where a tensor of one expert has them.
    kept = {
        experts.up: (rows, 1 if experts.transposed else 0),
        f"{experts.up}_bias": (rows, 0),
        experts.down: (kept_EC, 0 if experts.transposed else 1),
    }
    narrowed = dict(tensors)
    for name, (chosen, axis) in kept.items():
        if prefix + name in tensors:
            pairs = zip(tensors[prefix + name], chosen, strict=True)
            narrowed[prefix + name] = torch.stack([t.index_select(axis, c) for t, c in pairs])
    return narrowed


def in_files(
    experts: Experts, module: str, name: str, tensor: torch.Tensor
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields a tensor as the family's files have it: experts one by one, under their names.

    Args:
        experts: The mixture.
        module: The name of the half within the layer.
        name: The tensor's name in the model.
        tensor: The tensor.
    """
    before, inside, rest = name.partition(f".{module}.")
    if experts.files is None or not inside:
        yield name, tensor
        return
    half, ups, downs = experts.files
    of = {f"{experts.experts}.{experts.up}": ups, f"{experts.experts}.{experts.down}": downs}
    if rest not in of:
        yield f"{before}.{half}.{rest}", tensor
        return
    for number, own in enumerate(tensor):
        for part, rows in zip(of[rest], own.chunk(len(of[rest])), strict=True):
            yield f"{before}.{half}.{experts.experts}.{number}.{part}.weight", rows
