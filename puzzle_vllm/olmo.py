"""The decoder layer of OLMo 2 and 3, of vLLM's own parts.

vLLM runs these families with transformers' modules, whose layers are of the sizes that their config
has for all. Its own attention and FFN of OLMo Hybrid compute the same.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.models.llama import LlamaDecoderLayer, LlamaForCausalLM
from vllm.model_executor.models.olmo_hybrid import OlmoHybridAttention, OlmoHybridMLP
from vllm.model_executor.models.utils import extract_layer_index

# Within the model of a Llama.
LOOPED = LlamaDecoderLayer
OlmoForCausalLM = LlamaForCausalLM


class OlmoDecoderLayer(nn.Module):
    """An attention and an FFN, each with a norm of what it returns; `ChildLayer` runs them.

    Args:
        vllm_config: The engine's settings, with the layer's sizes and window.
        prefix: The layer's name within the model.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        sizes = vllm_config.model_config.hf_config
        self.self_attn = _attention(vllm_config, f"{prefix}.self_attn")
        self.mlp = OlmoHybridMLP(vllm_config=vllm_config, prefix=f"{prefix}.mlp")
        for name in ("post_attention_layernorm", "post_feedforward_layernorm"):
            setattr(self, name, RMSNorm(sizes.hidden_size, eps=sizes.rms_norm_eps))


class OlmoAttention(OlmoHybridAttention):
    """vLLM's own attention, where processes share KV heads as well."""

    def _apply_qk_norm(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        copies = self.tp_size // self.total_num_kv_heads
        if copies < 2:
            normed: tuple[torch.Tensor, torch.Tensor] = super()._apply_qk_norm(q, k)
            return normed
        # The norm is over all heads, each of which `copies` processes in a row have.
        q = self.q_norm(tensor_model_parallel_all_gather(q.contiguous()))
        heads = tensor_model_parallel_all_gather(k.contiguous()).unflatten(-1, (self.tp_size, -1))
        k = self.k_norm(heads[..., ::copies, :].flatten(-2))
        own = self.tp_rank // copies
        return q.chunk(self.tp_size, -1)[self.tp_rank], k.chunk(self.total_num_kv_heads, -1)[own]


def _attention(vllm_config: VllmConfig, prefix: str) -> Any:
    """Returns an attention whose heads, biases and rotary table are those of a layer's config.

    vLLM's takes the hidden size to be that of all heads together, and has no biases.
    """
    sizes = copy.copy(vllm_config.model_config.hf_config)
    heads, hidden = sizes.num_attention_heads, sizes.hidden_size
    head_dim = getattr(sizes, "head_dim", None) or hidden // heads
    types = getattr(sizes, "layer_types", None)
    if types and types[0] in sizes.rope_parameters:
        sizes.rope_parameters = sizes.rope_parameters[types[extract_layer_index(prefix)]]
    sizes.hidden_size = heads * head_dim
    settings = copy.copy(vllm_config)
    settings.model_config = copy.copy(vllm_config.model_config)
    settings.model_config.hf_config = sizes
    attention = OlmoAttention(vllm_config=settings, prefix=prefix)
    if sizes.hidden_size != hidden or sizes.attention_bias:
        shared = {"bias": sizes.attention_bias, "quant_config": vllm_config.quant_config}
        attention.qkv_proj = QKVParallelLinear(
            hidden,
            head_dim,
            heads,
            sizes.num_key_value_heads,
            prefix=f"{prefix}.qkv_proj",
            **shared,
        )
        attention.o_proj = RowParallelLinear(
            heads * head_dim, hidden, prefix=f"{prefix}.o_proj", **shared
        )
    return attention
