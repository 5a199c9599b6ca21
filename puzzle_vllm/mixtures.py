"""Models with mixtures of experts in vLLM, of which a child may have none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models import mixtral, qwen3_moe
from vllm.model_executor.models.utils import maybe_prefix

Qwen3MoeDecoderLayer = qwen3_moe.Qwen3MoeDecoderLayer
MixtralDecoderLayer = mixtral.MixtralDecoderLayer


class Mixtures:
    """A causal language model whose layers come later, in place of the stock constructor.

    The stock one looks for a layer with a mixture of experts, and a child, or one stage of a
    pipeline, may have none.
    """

    stock_model: ClassVar[Any]

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        nn.Module.__init__(self)  # type: ignore[arg-type]
        config, quant_config = vllm_config.model_config.hf_config, vllm_config.quant_config
        self.config, self.quant_config = config, quant_config
        self.model = self.stock_model(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        self.lm_head = ParallelLMHead(
            config.vocab_size,
            config.hidden_size,
            quant_config=quant_config,
            prefix=maybe_prefix(prefix, "lm_head"),
        )
        if config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)
        self.logits_processor = LogitsProcessor(config.vocab_size)
        self.make_empty_intermediate_tensors = self.model.make_empty_intermediate_tensors


class Qwen3MoeForCausalLM(Mixtures, qwen3_moe.Qwen3MoeForCausalLM):
    """vLLM's Qwen 3 MoE, for layers of any kind."""

    stock_model = qwen3_moe.Qwen3MoeModel
    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {
        **qwen3_moe.Qwen3MoeForCausalLM.packed_modules_mapping,
        "gate_up_proj": ["gate_proj", "up_proj"],
    }


class MixtralForCausalLM(Mixtures, mixtral.MixtralForCausalLM):
    """vLLM's Mixtral, for layers of any kind, which reads the names that a child's tensors have."""

    stock_model = mixtral.MixtralModel

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads a child's tensors; returns the names of those of the model."""
        loaded: set[str] = super().load_weights(_mixtral_names(weights))
        return loaded


def _mixtral_names(
    weights: Iterable[tuple[str, torch.Tensor]],
) -> Iterator[tuple[str, torch.Tensor]]:
    maps = {"gate_up_proj": "w13", "down_proj": "w2"}
    for name, tensor in weights:
        before, inside, own = name.replace(".mlp.", ".block_sparse_moe.").rpartition(".experts.")
        yield before + inside + maps.get(own, own), tensor
