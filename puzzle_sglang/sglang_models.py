"""Children in SGLang: its model of layers that differ, over its own attentions and FFNs.

A half that a layer does not have is absent.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from sglang.srt.layers.layer_boundary import append_stages, declare_attn, declare_ffn
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.linear import RowParallelLinear
from sglang.srt.models.llama import LlamaMLP
from sglang.srt.models.nemotron_nas import DeciLMForCausalLM, DeciModel
from torch import nn

from puzzle_sglang.sglang_children import CLASSES, repeated_heads, require_servable


class LinearPart(nn.Module):
    """One linear map in place of an attention or an FFN, in parts that the processes add up."""

    def __init__(self, hidden: int, quant_config: Any, prefix: str) -> None:
        super().__init__()
        self.linear_proj = RowParallelLinear(
            hidden,
            hidden,
            bias=False,
            input_is_parallel=False,
            reduce_results=False,
            quant_config=quant_config,
            prefix=f"{prefix}.linear_proj",
        )

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        """Returns this process's part of the map of the input."""
        update, _bias = self.linear_proj(hidden_states)
        return update


class Unrotated(nn.Module):
    """The rotary embedding of a layer that has none."""

    def forward(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns queries and keys as they are."""
        return query, key


class SglangLayer(nn.Module):
    """A decoder layer with the halves that its block names.

    Args:
        config: The child's.
        layer_idx: The layer.
        quant_config: SGLang's.
        prefix: The layer's name within the model.
    """

    def __init__(
        self, config: Any, layer_idx: int, quant_config: Any = None, prefix: str = ""
    ) -> None:
        super().__init__()
        block, sizes = config.block(layer_idx), config.layer_config(layer_idx)
        self.halves: list[str] = []
        norms = []
        if block.attention.kind != "none":
            self.self_attn = (
                LinearPart(config.hidden_size, quant_config, f"{prefix}.self_attn")
                if block.attention.kind == "linear"
                else _attention(config, layer_idx, quant_config, f"{prefix}.self_attn")
            )
            self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            norms.append(self.input_layernorm)
            self.halves.append("self_attn")
        if block.ffn.kind != "none":
            self.mlp = (
                LinearPart(config.hidden_size, quant_config, f"{prefix}.mlp")
                if block.ffn.kind == "linear"
                else LlamaMLP(
                    hidden_size=config.hidden_size,
                    intermediate_size=sizes.intermediate_size,
                    hidden_act=config.hidden_act,
                    quant_config=quant_config,
                    prefix=f"{prefix}.mlp",
                    reduce_results=False,
                )
            )
            self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            norms.append(self.post_attention_layernorm)
            self.halves.append("mlp")
        # What SGLang does between halves: norms, sums over processes, the residual stream.
        facts = self.stage_facts(config, layer_idx)
        self.boundaries: tuple[Any, ...] = ()
        self.entry_boundary = None
        if norms:
            self.boundaries = append_stages(*zip(facts, norms, strict=True))
            self.entry_boundary = self.boundaries[0]

    @staticmethod
    def stage_facts(config: Any, layer_idx: int) -> tuple[Any, ...]:
        """Returns what SGLang's pipeline has to know of a layer that another process has."""
        block = config.block(layer_idx)
        stages = [] if block.attention.kind == "none" else [declare_attn()]
        if block.ffn.kind != "none":
            stages.append(declare_ffn(sparse=False, next_layer_sparse=False))
        return tuple(stages)

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, forward_batch: Any
    ) -> torch.Tensor:
        """Returns what the layer leaves to the next; SGLang keeps the stream in the batch."""
        for name, boundary in zip(self.halves, self.boundaries, strict=True):
            half = getattr(self, name)
            hidden_states = boundary.prepare(hidden_states, forward_batch)
            if name == "mlp" or isinstance(half, LinearPart):
                hidden_states = half(hidden_states)
            else:
                hidden_states = half(positions, hidden_states, forward_batch)
            hidden_states = boundary.finish(hidden_states, forward_batch)
        return hidden_states


def _attention(config: Any, layer: int, quant_config: Any, prefix: str) -> nn.Module:
    """Returns SGLang's attention of the family, with the KV heads of the parent."""
    module, name = CLASSES[config.architectures[0]]
    stock = getattr(importlib.import_module(f"sglang.srt.models.{module}"), name)
    sizes = config.layer_config(layer)
    heads, ropes = sizes.num_attention_heads, getattr(config, "no_rope_layers", None)
    bias = getattr(config, "attention_bias", False)
    given = {
        "config": sizes,
        "hidden_size": config.hidden_size,
        "num_heads": heads,
        "num_kv_heads": config.num_key_value_heads,
        "head_dim": sizes.head_dim,
        "layer_id": layer,
        "rope_theta": config.rope_parameters["rope_theta"],
        "rope_scaling": config.rope_parameters,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "bias": bias,
        "attention_bias": bias,
        "reduce_results": False,
        "quant_config": quant_config,
        "prefix": prefix,
    }
    taken = inspect.signature(stock.__init__).parameters
    attention = stock(**{key: value for key, value in given.items() if key in taken})
    if ropes and not ropes[layer]:
        attention.rotary_emb = Unrotated()
    return attention


class SglangChild(DeciLMForCausalLM):
    """What the children of all families are in SGLang."""

    def _init_model(self, config: Any, quant_config: Any = None, prefix: str = "") -> nn.Module:
        require_servable(config)
        return DeciModel(
            config=config, quant_config=quant_config, prefix=prefix, layer_type=SglangLayer
        )

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Fills the model with the tensors of a child as it was saved."""
        super().load_weights(repeated_heads(weights, self.config))


EntryClass = [type(name, (SglangChild,), {"__module__": __name__}) for name in CLASSES]
