"""Slot: where one half of a decoder layer is, and what the rows of its maps are, as names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from search_space import FFN

# A map's name within its half, and what its rows are, in their order: heads of queries, keys and
# values, or channels of gate and up.
Rows = tuple[str, tuple[str, ...]]
QUERY, KEY, VALUE, GATE, UP = "query", "key", "value", "gate", "up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one half of a decoder layer is, and the norms around it, as names within the layer.

    Args:
        module: The half.
        maps: Its maps except the last, with what their rows are.
        out: Its last map.
        before: The norm of what enters it; None where the residual stream enters as it is.
        after: The norm of what it returns; None where that is added as it is.

    Example:
        >>> fused = Slot(module="mlp", maps=(("gate_up_proj", ("gate", "up")),), out="down_proj")
        >>> rows = {"gate_up_proj.weight": torch.arange(6.0)[:, None]}
        >>> sizes = {"gate": 3, "up": 3}
        >>> fused.part(rows, "up", sizes)["weight"].flatten()
        tensor([3., 4., 5.])
        >>> fused.changed(rows, sizes, lambda part, rows: rows[:1])["gate_up_proj.weight"].flatten()
        tensor([0., 3.])
    """

    module: str
    maps: tuple[Rows, ...]
    out: str
    before: str | None = None
    after: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The modules of a layer that belong to the half, the norm before it first."""
        return tuple(name for name in (self.before, self.module, self.after) if name)

    @property
    def norms_before(self) -> tuple[str, ...]:
        """The norm before the half, if there is one."""
        return self.names[: self.before is not None]

    def part(
        self, tensors: Mapping[str, torch.Tensor], part: str, sizes: Mapping[str, int]
    ) -> dict[str, torch.Tensor]:
        """Returns the weight, and the bias if there is one, of some rows.

        Args:
            tensors: The tensors of the half, by name within it.
            part: What the rows are.
            sizes: How many rows of each kind there are.
        """
        return {
            name.rpartition(".")[2]: rows[part]
            for name, rows in self.rows(tensors, sizes).items()
            if part in rows
        }

    def changed(
        self,
        tensors: Mapping[str, torch.Tensor],
        sizes: Mapping[str, int],
        change: Callable[[str, torch.Tensor], torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Returns the tensors of the maps after a change of their rows.

        Args:
            tensors: The tensors of the half, by name within it.
            sizes: How many rows of each kind there are.
            change: Called with what rows are and with them.
        """
        return {
            name: torch.cat([change(part, own) for part, own in rows.items()])
            for name, rows in self.rows(tensors, sizes).items()
        }

    def rows(
        self, tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int]
    ) -> dict[str, dict[str, torch.Tensor]]:
        """Returns the rows of the maps' tensors by name and by what they are; as `changed`."""
        parts, maps = dict(self.maps), {}
        for name, tensor in tensors.items():
            of = parts.get(name.rpartition(".")[0])
            if of:
                pieces = tensor.split([sizes[part] for part in of])
                maps[name] = dict(zip(of, pieces, strict=True))
        return maps


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixer:
    """What a hybrid has in place of an attention in the layers of one type.

    Args:
        kind: Its kind, one of `search_space.blocks.MIXERS`.
        layer_type: The type of its layers in the config.
        slot: Where it is. What its last map is given can be refitted; its other maps stay.
        state: Returns how many numbers it keeps of each sequence, from the config.
        cache: The argument by which it takes the cache.
    """

    kind: str
    layer_type: str
    slot: Slot
    state: Callable[[Any], int]
    cache: str = "past_key_values"


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The mixture of experts that a family has in place of its FFN, in all layers or in some.

    It is at the FFN's slot: its norms and the name of its module are those of the FFN. Each tensor
    below it has one entry per expert.

    Args:
        count: Config attribute of the number of experts.
        width: Config attribute of the channels of each.
        top_k: Config attribute of the experts of one token.
        router: The router, as a name within the half.
        experts: The experts' maps, as a name within the half.
        down: The last map of all experts, as a name within these.
        up: The map before it.
        transposed: Whether a map is stored as (inputs, outputs).
        interleaved: Whether rows of gate and up take turns in `up`, or those of gate come first.
        sparse: Config attributes, and their values where every layer has a mixture.
        dense: The same where no layer has one; None in families whose layers all have one.
        is_sparse: Whether a layer of a config, by its number, has a mixture.
        files: What a checkpoint calls the half, and the maps of one expert that `up` and `down`
            are made of; None where files have the names of the model.
    """

    count: str
    width: str
    top_k: str = "num_experts_per_tok"
    router: str = "gate"
    experts: str = "experts"
    up: str = "gate_up_proj"
    down: str = "down_proj"
    transposed: bool = False
    interleaved: bool = False
    sparse: tuple[tuple[str, Any], ...] = ()
    dense: tuple[tuple[str, Any], ...] | None = None
    is_sparse: Callable[[Any, int], bool] = lambda config, index: True
    files: tuple[str, tuple[str, ...], tuple[str, ...]] | None = None

    def ffn(self, config: Any) -> FFN:
        """Returns the mixture of a config."""
        sizes = (getattr(config, name) for name in (self.width, self.count, self.top_k))
        return FFN("moe", *sizes)


# Those of a Llama, and of most families.
ATTENTION = Slot(
    module="self_attn",
    maps=(("q_proj", (QUERY,)), ("k_proj", (KEY,)), ("v_proj", (VALUE,))),
    out="o_proj",
    before="input_layernorm",
)
GATED = Slot(
    module="mlp",
    maps=(("gate_proj", (GATE,)), ("up_proj", (UP,))),
    out="down_proj",
    before="post_attention_layernorm",
)
