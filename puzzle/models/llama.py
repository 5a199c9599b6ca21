"""The Llama family on the stock transformers classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from puzzle.errors import ParentError
from puzzle.models.family import Rope
from search_space import ModelShape


class Llama:
    """Llama and the models that share its architecture and config."""

    model_types: tuple[str, ...] = ("llama",)
    layer_prefix = "model.layers.{}."
    embedding = "model.embed_tokens.weight"
    norm = "model.norm.weight"
    head = "lm_head.weight"

    def shape(self, config: Any) -> ModelShape:
        """Returns the sizes of the model; ParentError where they are not a plain Llama's."""
        if config.hidden_act != "silu":
            raise ParentError(f"hidden_act={config.hidden_act!r}; allowed for llama: 'silu'")
        return ModelShape(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            head_dim=config.head_dim,
            kv_heads=config.num_key_value_heads,
            ffn_width=config.intermediate_size,
            vocab=config.vocab_size,
            tied=bool(config.tie_word_embeddings),
            attention_bias=bool(config.attention_bias),
            mlp_bias=bool(config.mlp_bias),
        )

    def layer(self, config: Any, index: int) -> nn.Module:
        """Returns an unloaded decoder layer."""
        return LlamaDecoderLayer(config, index)

    def final_norm(self, config: Any) -> nn.Module:
        """Returns an unloaded final norm."""
        return LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def rope(self, config: Any, length: int) -> Rope:
        """Returns the rotary cosines and sines for positions 0 to length - 1."""
        positions = torch.arange(length)[None]
        return LlamaRotaryEmbedding(config)(torch.zeros(1), positions)

    def run(self, layer: nn.Module, x_BLD: torch.Tensor, rope: Rope) -> torch.Tensor:
        """Returns the residual stream after a decoder layer, causal, without a cache."""
        rope = (rope[0].to(x_BLD.dtype), rope[1].to(x_BLD.dtype))
        return layer(x_BLD, attention_mask=None, position_embeddings=rope)

    def attention_features(self, layer: nn.Module, x_BLD: torch.Tensor, rope: Rope) -> torch.Tensor:
        """Returns what enters o_proj."""
        attention: Any = layer.self_attn
        h_BLD = layer.input_layernorm(x_BLD)  # type: ignore[operator]
        return attention_context(
            h_BLD,
            (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight),
            head_dim=attention.head_dim,
            rope=rope,
            biases=(attention.q_proj.bias, attention.k_proj.bias, attention.v_proj.bias),
        )


def attention_context(
    h_BLD: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    *,
    head_dim: int,
    rope: Rope,
    biases: tuple[torch.Tensor | None, ...] = (None, None, None),
) -> torch.Tensor:
    """Returns causal grouped-query attention before its output map, (B, L, heads * head_dim).

    Args:
        h_BLD: Normed input, (batch, length, hidden).
        weights: Query map, (heads * head_dim, hidden), and maps of keys and values, both
            (kv_heads * head_dim, hidden).
        head_dim: Channels per head.
        rope: Rotary cosines and sines.
        biases: Biases of the three maps.
    """
    batch, length, _ = h_BLD.shape
    q, k, v = (
        nn.functional.linear(h_BLD, w, b).view(batch, length, -1, head_dim).transpose(1, 2)
        for w, b in zip(weights, biases, strict=True)
    )
    q, k = apply_rotary_pos_emb(q, k, rope[0].to(q.dtype), rope[1].to(q.dtype))
    context = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return context.transpose(1, 2).reshape(batch, length, -1)


LLAMA = Llama()
