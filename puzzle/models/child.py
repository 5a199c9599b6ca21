"""The child's model class: Llama's own forward over layers built each from its own config."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Cache,
)
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from puzzle.errors import PuzzleError
from puzzle.models.child_config import PuzzleConfig


class LinearSublayer(nn.Module):
    """One linear map of the normed residual stream, in place of an attention or an FFN."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns the map of the input, (B, L, hidden)."""
        return self.linear_proj(hidden_states)


def record_length(cache: Cache, hidden_states: torch.Tensor) -> None:
    """Counts tokens in the cache of a first layer without attention, at a byte for each.

    transformers reads the length of the sequence from that layer.

    Args:
        cache: The cache.
        hidden_states: The residual stream of the tokens, (B, L, any).
    """
    batch, length = hidden_states.shape[:2]
    keys = hidden_states.new_zeros((batch, 1, length, 1), dtype=torch.int8)
    cache.update(keys, keys[..., :0], 0)


class RepeatedHeads(nn.Module):
    """A map to keys or values that gives each head several times in a row.

    Args:
        linear: The map.
        head_dim: Channels per head.
        times: How often each head is given.
    """

    def __init__(self, linear: nn.Module, head_dim: int, times: int) -> None:
        super().__init__()
        self.linear, self.head_dim, self.times = linear, head_dim, times

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns the repeated heads, (B, L, heads * times * head_dim)."""
        heads_BLHD = self.linear(hidden_states).unflatten(-1, (-1, self.head_dim))
        return heads_BLHD.repeat_interleave(self.times, dim=-2).flatten(-2)


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
        self.layer_idx = layer_idx
        self._heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.attention_kind, self.ffn_kind = block.attention.kind, block.ffn.kind
        if self.attention_kind != "none":
            softmax = self.attention_kind == "gqa"
            self.input_layernorm = LlamaRMSNorm(hidden, eps=config.rms_norm_eps)
            self.self_attn = LlamaAttention(sizes, layer_idx) if softmax else LinearSublayer(hidden)
            if softmax:
                # Only its sizes are the layer's own: `set_attn_implementation` changes the model's.
                self.self_attn.config = config
        if self.ffn_kind != "none":
            gated = self.ffn_kind == "gated"
            self.post_attention_layernorm = LlamaRMSNorm(hidden, eps=config.rms_norm_eps)
            self.mlp = LlamaMLP(sizes) if gated else LinearSublayer(hidden)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Returns the residual stream after the layer, (B, L, hidden)."""
        if self.attention_kind == "gqa":
            normed = self.input_layernorm(hidden_states)
            paged = kwargs.get("cache") is not None
            attention = self._paged_attention() if paged else self.self_attn
            update, _ = attention(hidden_states=normed, **kwargs)
            hidden_states = hidden_states + update
        elif self.layer_idx == 0 and kwargs.get("past_key_values") is not None:
            record_length(kwargs["past_key_values"], hidden_states)
        if self.attention_kind == "linear":
            hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states))
        if self.ffn_kind != "none":
            hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return hidden_states

    def _paged_attention(self) -> nn.Module:
        """Returns the attention with as many heads of keys and values as a paged cache has.

        The cache of continuous batching has one number of heads for all layers, the parent's.
        Repeated heads give the same attention, at the parent's memory.
        """
        attention: Any = self.self_attn
        times = self.kv_heads * attention.num_key_value_groups // self._heads
        if times == 1:
            return attention
        # Of the same modules; the copy alone is changed.
        other: Any = copy.copy(attention)
        other._modules = dict(attention._modules)
        for name in ("k_proj", "v_proj"):
            linear = attention._modules[name]
            other._modules[name] = RepeatedHeads(linear, attention.head_dim, times)
        other.num_key_value_groups = self._heads // self.kv_heads
        return other


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
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Prepares transformers' continuous batching; `generate_batch` and serving call it.

        Raises:
            PuzzleError: A layer's heads of keys and values cannot fill the one cache of all layers.
        """
        most = self.config.num_key_value_heads
        heads = {
            index: self.config.block(index).attention.kv_heads
            for index in range(self.config.num_hidden_layers)
        }
        uneven = {index: count for index, count in heads.items() if count and most % count}
        if uneven:
            raise PuzzleError(
                f"continuous batching keeps one cache of {most} heads for all layers, into which "
                f"those of these layers do not go evenly: {uneven}; use generate(), or export the "
                "child for vLLM or llama.cpp, whose caches are the layers' own"
            )
        return super().init_continuous_batching(*args, **kwargs)


class PuzzleForSequenceClassification(GenericForSequenceClassification, PuzzlePreTrainedModel):
    """The child with a score for each text, such as a reward model."""


class PuzzleForTokenClassification(GenericForTokenClassification, PuzzlePreTrainedModel):
    """The child with a class for each token."""


class PuzzleForQuestionAnswering(GenericForQuestionAnswering, PuzzlePreTrainedModel):
    """The child with the start and end of an answer in the text."""


AutoModel.register(PuzzleConfig, PuzzleModel, exist_ok=True)
AutoModelForCausalLM.register(PuzzleConfig, PuzzleForCausalLM, exist_ok=True)
for auto, child in (
    (AutoModelForSequenceClassification, PuzzleForSequenceClassification),
    (AutoModelForTokenClassification, PuzzleForTokenClassification),
    (AutoModelForQuestionAnswering, PuzzleForQuestionAnswering),
):
    auto.register(PuzzleConfig, child, exist_ok=True)
