"""Children in vLLM: its own model of the family, over its own decoder layers of each layer's sizes.

A half that a layer does not have is absent, and has no KV cache.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.models.llama import LlamaDecoderLayer
from vllm.model_executor.models.utils import extract_layer_index, make_layers, maybe_prefix

from puzzle.models.families import family_of
from puzzle_vllm.children import RENAMED, STOCK, class_name
from puzzle_vllm.hybrids import LAYER_TYPES, LAYERS, MODULES, lfm2_attention


class LinearHalf(nn.Module):
    """One linear map in place of an attention or an FFN."""

    def __init__(self, hidden: int, prefix: str) -> None:
        super().__init__()
        self.linear_proj = ReplicatedLinear(
            hidden, hidden, bias=False, prefix=f"{prefix}.linear_proj"
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns the map of the input, of the same shape."""
        update, _ = self.linear_proj(hidden_states)
        return update


class NoPositions(nn.Module):
    """The rotary embedding of a layer that has none."""

    def forward(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns queries and keys as they are."""
        return query, key


@dataclass(frozen=True, slots=True)
class LayerCalls:
    """How a model calls its layers.

    Args:
        pairs: Whether it carries the stream beside the last update, or their sum.
        swapped: Whether it gives the hidden states before the positions.
    """

    pairs: bool
    swapped: bool


class ChildLayer(nn.Module):
    """A decoder layer of vLLM's with the halves that its block names.

    Args:
        stocks: vLLM's decoder layer classes of the family, by the kind of the attention they have.
        calls: How the model calls it.
        vllm_config: The engine's settings.
        prefix: The layer's name within the model.
    """

    def __init__(
        self,
        stocks: Mapping[str, type[nn.Module]],
        calls: LayerCalls,
        vllm_config: VllmConfig,
        prefix: str,
    ) -> None:
        super().__init__()
        config, index = vllm_config.model_config.hf_config, extract_layer_index(prefix)
        family, block = family_of(config), config.block(index)
        stock = stocks.get(block.attention.kind, stocks["none"])
        own, sizes = _own_config(vllm_config, index, stock)
        layer = _stock_layer(stock, block.attention.kind, own, prefix)
        if family.model_types[0] == "lfm2" and block.attention.kind == "gqa":
            name = family.attention.module
            attention = lfm2_attention(getattr(layer, name), sizes, own, f"{prefix}.{name}")
            setattr(layer, name, attention)
        # Read of the first layer by models with experts: whether devices share out the tokens.
        self.use_attn_reduce_scatter_for_moe = False
        if getattr(layer, "use_attn_reduce_scatter_for_moe", False):
            raise ValueError(
                "children with experts cannot share out tokens between devices; leave out "
                "--enable-expert-parallel, or --data-parallel-size"
            )
        self.calls, scale = calls, family.residual_scale(config)
        names = MODULES | RENAMED.get(family.model_types[0], {})
        self.halves: list[tuple[str, str | None, str | None, str, float]] = []
        mixing = family.mixing(block.attention)
        for slot, kind in ((mixing, block.attention.kind), (family.ffn, block.ffn.kind)):
            if kind == "none":
                continue
            linear, module = kind == "linear", names.get(slot.module, slot.module)
            for name in slot.norms_before if linear else slot.names:
                own_name = names.get(name, name)
                setattr(self, own_name, getattr(layer, own_name))
            if linear:
                setattr(self, module, LinearHalf(config.hidden_size, f"{prefix}.{module}"))
            after = None if linear else slot.after
            self.halves.append((module, slot.before, after, kind, 1.0 if linear else scale))
        kept = [name for name, *_, kind, _ in self.halves if kind != "linear"]
        _forget(vllm_config, prefix, kept)
        ropes = getattr(config, "no_rope_layers", None)
        if block.attention.kind == "gqa" and ropes and not ropes[index]:
            getattr(self, mixing.module).rotary_emb = NoPositions()

    def forward(
        self,
        positions: torch.Tensor,
        hidden_states: torch.Tensor,
        residual: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Returns the last update and the stream before it, or their sum, as the family's loop."""
        if self.calls.swapped:
            positions, hidden_states = hidden_states, positions
        update, stream = hidden_states, residual
        for name, before, after, kind, scale in self.halves:
            if before is None:
                stream = update if stream is None else stream + update
                normed = stream
            elif stream is None:
                stream, normed = update, getattr(self, before)(update)
            else:
                normed, stream = getattr(self, before)(update, stream)
            if kind == "gqa":
                update = getattr(self, name)(positions=positions, hidden_states=normed)
            elif kind == "conv":
                update = torch.empty_like(normed)
                getattr(self, name)(normed, update)
            else:
                update = getattr(self, name)(normed)
            if after is not None:
                update = getattr(self, after)(update)
            if scale != 1.0:
                update = update * scale
        if not self.calls.pairs:
            return update if stream is None else stream + update
        return (torch.zeros_like(update), update) if stream is None else (update, stream)


def _own_config(vllm_config: VllmConfig, index: int, stock: type[nn.Module]) -> tuple[Any, Any]:
    """Returns the engine's settings and the model's config, with the sizes of one layer.

    A layer whose type has a window reads it from the config, every other one from the settings of
    the cache. Its type stays, since rotary tables are chosen by it.
    """
    config = vllm_config.model_config.hf_config
    family, sizes = family_of(config), config.layer_config(index)
    window = config.block(index).attention.window or family.window(config, index)
    sizes.sliding_window = window
    sizes.model_type = family.model_types[0]
    if stock is LlamaDecoderLayer and family.model_types[0] == "qwen2":
        sizes.qkv_bias = True
    settings = copy.copy(vllm_config)
    settings.model_config = copy.copy(vllm_config.model_config)
    settings.model_config.hf_config = settings.model_config.hf_text_config = sizes
    settings.cache_config = copy.copy(vllm_config.cache_config)
    settings.cache_config.sliding_window = window
    return settings, sizes


def _stock_layer(
    stock: type[nn.Module], kind: str, vllm_config: VllmConfig, prefix: str
) -> nn.Module:
    """Returns a layer of vLLM's, with an attention of some kind where its class has several."""
    taken = inspect.signature(stock.__init__).parameters
    given = {
        "config": vllm_config.model_config.hf_config,
        "layer_idx": extract_layer_index(prefix),
        "layer_type": LAYER_TYPES.get(kind, "linear_attention"),
        "prefix": prefix,
        "vllm_config": vllm_config,
        "model_config": vllm_config.model_config,
        "cache_config": vllm_config.cache_config,
        "quant_config": vllm_config.quant_config,
        "parallel_config": vllm_config.parallel_config,
    }
    return stock(**{name: value for name, value in given.items() if name in taken})


def _forget(vllm_config: VllmConfig, prefix: str, kept: Sequence[str]) -> None:
    """Takes what a layer does not keep off the list that caches and states are made from."""
    known = vllm_config.compilation_config.static_forward_context
    mixtures_known = vllm_config.compilation_config.static_all_moe_layers
    for name in [name for name in known if name.startswith(f"{prefix}.")]:
        if name.removeprefix(f"{prefix}.").partition(".")[0] not in kept:
            del known[name]
            if name in mixtures_known:
                mixtures_known.remove(name)


class Child:
    """What the children of all families are in vLLM: the stock model, its layers replaced."""

    stock_layers: Mapping[str, type[nn.Module]]
    calls: LayerCalls
    model: Any

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        layers, types = config.num_hidden_layers, getattr(config, "layer_types", None)
        try:
            # The stock constructor would build layers that are all alike, and Qwen 2's refuses
            # types that differ.
            config.num_hidden_layers = 0
            if types:
                config.layer_types = []
            super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        finally:
            config.num_hidden_layers = layers
            if types:
                config.layer_types = types
        self.model.start_layer, self.model.end_layer, self.model.layers = make_layers(
            layers,
            lambda prefix: ChildLayer(self.stock_layers, self.calls, vllm_config, prefix),
            prefix=f"{maybe_prefix(prefix, 'model')}.layers",
        )

    def set_moe_parameters(self) -> None:
        """Says that experts are not moved between devices, which vLLM does only where all layers
        have as many."""
        self.moe_layers: list[Any] = []
        self.num_moe_layers = 0


@cache
def _made(family: str) -> Any:
    module, prefix = STOCK[family]
    place = "" if "." in module else "vllm.model_executor.models."
    models = importlib.import_module(place + module)
    name = class_name(family)
    if family in LAYERS:
        layers = {kind: getattr(models, layer) for kind, layer in LAYERS[family].items()}
    else:
        # Qwen 2's own layer derives the size of a head from their number.
        own = f"{'' if family == 'qwen2' else prefix}DecoderLayer"
        layers = {"none": getattr(models, own, LlamaDecoderLayer)}
    # The layer that the model's loop is written for.
    looped = getattr(models, "LOOPED", layers["none"])
    calls = LayerCalls(
        pairs="residual" in inspect.signature(looped.forward).parameters,
        swapped=getattr(models, "SWAPPED", False),
    )
    members = {"__module__": __name__, "calls": calls, "stock_layers": layers}
    return type(name, (Child, getattr(models, f"{prefix}ForCausalLM")), members)


def __getattr__(name: str) -> Any:
    """Returns the class of a family's children; its module of vLLM is imported only then."""
    families = {class_name(family): family for family in STOCK}
    if name not in families:
        raise AttributeError(name)
    return _made(families[name])
