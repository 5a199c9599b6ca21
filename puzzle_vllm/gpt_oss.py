"""gpt-oss in vLLM, its tensors cut by the sizes that each layer has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.model_executor.models import gpt_oss

# The model gives its layers the hidden states before the positions.
SWAPPED = True
Weights = Iterable[tuple[str, torch.Tensor]]


class GptOssAttention(gpt_oss.OAIAttention):
    """vLLM's own attention, where there are more processes than KV heads as well."""

    def _build_attention(self, *args: Any, **kwargs: Any) -> Any:
        self.num_local_key_value_heads = self.qkv_proj.num_kv_heads
        self.kv_size = self.num_local_key_value_heads * self.head_dim
        return super()._build_attention(*args, **kwargs)


class GptOssDecoderLayer(gpt_oss.TransformerBlock):
    """vLLM's own layer."""

    attention_cls = GptOssAttention


class GptOssForCausalLM(gpt_oss.GptOssForCausalLM):
    """vLLM's own model.

    It cuts sinks and the stacked maps of experts by the sizes that its config has for all layers;
    experts that come one by one it cuts by their own.
    """

    def load_weights(self, weights: Weights) -> set[str]:
        """Loads a child's tensors; returns the names of those of the model."""
        parameters = dict(self.named_parameters())
        loaded: set[str] = set()

        def others() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                own = parameters.get(name.replace(".self_attn.", ".attn."))
                if not name.endswith(".sinks"):
                    yield from _by_expert(name, tensor)
                elif own is not None:  # of this stage of a pipeline
                    start = get_tensor_model_parallel_rank() * len(own)
                    own.data.copy_(tensor.narrow(0, start, len(own)))
                    loaded.add(name.replace(".self_attn.", ".attn."))

        named: set[str] = super().load_weights(others())
        return named | loaded


def _by_expert(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the maps of all experts one by one, and any other tensor as it is."""
    before, inside, own = name.rpartition(".experts.")
    if not inside:
        yield name, tensor
        return
    kind = "bias" if own.endswith("_bias") else "weight"
    maps = "w13" if own.startswith("gate_up_proj") else "w2"
    for number, expert in enumerate(tensor):
        yield f"{before}.experts.{number}.{maps}_{kind}", expert
