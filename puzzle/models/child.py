"""The child's model class: Llama's own forward over layers built each from its own config."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from puzzle.models.child_config import PuzzleConfig


class LinearSublayer(nn.Module):
    """One linear map of the normed residual stream, in place of an attention or an FFN."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns the map of the input, (B, L, hidden)."""
        return self.linear_proj(hidden_states)


class PuzzleDecoderLayer(GradientCheckpointingLayer):
    """A decoder layer with the sublayers its block names; a missing one has no parameters.

    Args:
        config: The child's config.
        layer_idx: The layer's number, counting those without attention.
    """

    def __init__(self, config: PuzzleConfig, layer_idx: int) -> None:
        super().__init__()
        block, sizes = config.block(layer_idx), config.layer_config(layer_idx)
        hidden = config.hidden_size
        self.attention_kind, self.ffn_kind = block.attention.kind, block.ffn.kind
        if self.attention_kind != "none":
            softmax = self.attention_kind == "gqa"
            self.input_layernorm = LlamaRMSNorm(hidden, eps=config.rms_norm_eps)
            self.self_attn = LlamaAttention(sizes, layer_idx) if softmax else LinearSublayer(hidden)
        if self.ffn_kind != "none":
            gated = self.ffn_kind == "gated"
            self.post_attention_layernorm = LlamaRMSNorm(hidden, eps=config.rms_norm_eps)
            self.mlp = LlamaMLP(sizes) if gated else LinearSublayer(hidden)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Returns the residual stream after the layer, (B, L, hidden)."""
        if self.attention_kind == "gqa":
            normed = self.input_layernorm(hidden_states)
            update, _ = self.self_attn(hidden_states=normed, **kwargs)
            hidden_states = hidden_states + update
        elif self.attention_kind == "linear":
            hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states))
        if self.ffn_kind != "none":
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states


class PuzzlePreTrainedModel(LlamaPreTrainedModel):
    """Settings that transformers reads from the child's classes."""

    config_class = PuzzleConfig
    _no_split_modules = ["PuzzleDecoderLayer"]  # noqa: RUF012 - transformers reads a list
    _can_record_outputs = {  # noqa: RUF012 - transformers reads a dict
        "hidden_states": PuzzleDecoderLayer,
        "attentions": LlamaAttention,
    }


class PuzzleModel(PuzzlePreTrainedModel, LlamaModel):
    """The child without its head."""

    def __init__(self, config: PuzzleConfig) -> None:
        # LlamaModel's own constructor would build equal layers first.
        LlamaPreTrainedModel.__init__(self, config)
        hidden = config.hidden_size
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, hidden, self.padding_idx)
        self.layers = nn.ModuleList(
            [PuzzleDecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        )
        self.norm = LlamaRMSNorm(hidden, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class PuzzleForCausalLM(PuzzlePreTrainedModel, LlamaForCausalLM):
    """The child as a causal language model.

    Example:
        >>> import puzzle
        >>> from transformers import AutoModelForCausalLM
        >>> model = AutoModelForCausalLM.from_pretrained("out/child")  # doctest: +SKIP
    """

    def __init__(self, config: PuzzleConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = PuzzleModel(config)
        if not any(layer.attention_kind == "gqa" for layer in self.model.layers):
            # Nothing to cache, and transformers cannot read a length from such a cache.
            self.config.use_cache = False
            self.generation_config.use_cache = False
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


AutoConfig.register(PuzzleConfig.model_type, PuzzleConfig, exist_ok=True)
AutoModel.register(PuzzleConfig, PuzzleModel, exist_ok=True)
AutoModelForCausalLM.register(PuzzleConfig, PuzzleForCausalLM, exist_ok=True)
