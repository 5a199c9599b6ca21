"""What hybrids have in vLLM: the classes of their layers, and an attention of sizes of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.models.lfm2 import Lfm2Attention

# The decoder layers of families that have several classes of them, by the kind of the attention.
LAYERS = {
    "lfm2": {
        "gqa": "Lfm2AttentionDecoderLayer",
        "conv": "Lfm2ShortConvDecoderLayer",
        "none": "Lfm2ShortConvDecoderLayer",
    },
    "nemotron_h": {
        "gqa": "NemotronHAttentionDecoderLayer",
        "mamba2": "NemotronHMambaDecoderLayer",
        "none": "NemotronHMLPDecoderLayer",
    },
}
# Of a decoder layer that is one class for all types, the type that it is told.
LAYER_TYPES = {"gqa": "full_attention", "deltanet": "linear_attention"}
# Halves that vLLM calls otherwise than transformers.
MODULES = {"conv": "short_conv"}


class FlatHeads(nn.Module):
    """The rotary embedding of an attention whose queries and keys have an axis of heads.

    The kernel of vLLM's CPU build takes that axis for tokens, and reads positions beyond the given.
    """

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(
        self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns queries and keys turned by their positions, of the same shapes."""
        flat_query, flat_key = self.rotary(positions, query.flatten(1), key.flatten(1))
        return flat_query.view_as(query), flat_key.view_as(key)


def lfm2_attention(attention: Any, sizes: Any, vllm_config: VllmConfig, prefix: str) -> Any:
    """Returns the attention of an LFM2 layer, with heads of the size that its config says.

    vLLM's own takes the hidden size to be that of all heads together.

    Args:
        attention: vLLM's own, built from the layer's config.
        sizes: The layer's config.
        vllm_config: The engine's settings, with the layer's window.
        prefix: The attention's name within the model.
    """
    heads, kv_heads = sizes.num_attention_heads, sizes.num_key_value_heads
    # A config without it has the parent's number of heads: it is set where some were removed.
    head_dim = getattr(sizes, "head_dim", None) or sizes.hidden_size // heads
    width = heads * head_dim
    if width != sizes.hidden_size:
        known = vllm_config.compilation_config.static_forward_context
        del known[f"{prefix}.attn"]  # the one built below has the same name
        attention = Lfm2Attention(
            config=sizes,
            layer_idx=attention.layer_idx,
            hidden_size=width,
            num_heads=heads,
            num_kv_heads=kv_heads,
            max_position_embeddings=sizes.max_position_embeddings,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            prefix=prefix,
        )
        attention.qkv_proj = QKVParallelLinear(
            sizes.hidden_size,
            head_dim,
            heads,
            kv_heads,
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        attention.out_proj = RowParallelLinear(
            width,
            sizes.hidden_size,
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.out_proj",
        )
    attention.rotary_emb = FlatHeads(attention.rotary_emb)
    return attention
