"""What mixtures of experts have in vLLM: a model that may have none, and the names of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.utils import maybe_prefix

# vLLM's modules whose names are not those of transformers, by family.
MODULES = {"mixtral": {"mlp": "block_sparse_moe"}}
# What vLLM calls the maps of all experts of a layer, where it is not what transformers does.
STACKED = {"mixtral": {"gate_up_proj": "w13", "down_proj": "w2"}}
# Families whose stock constructor takes a model without a mixture for a fault.
FAMILIES = ("qwen3_moe", "mixtral")


class Mixtures:
    """A causal language model whose layers come later, in place of the stock constructor.

    The stock one looks for a layer with a mixture of experts, and a child, or one stage of a
    pipeline, may have none.
    """

    stock_model: ClassVar[Any]
    stacked: ClassVar[dict[str, str]] = {}

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
        self.set_moe_parameters()  # type: ignore[attr-defined]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Loads a child's tensors, those of all experts of a layer under vLLM's names."""
        loaded: set[str] = super().load_weights(self._named(weights))  # type: ignore[misc]
        return loaded

    def _named(
        self, weights: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in weights:
            before, inside, own = name.rpartition(".experts.")
            yield before + inside + self.stacked.get(own, own), tensor
