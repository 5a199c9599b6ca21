"""What of a child SGLang has to be told: its classes, what it cannot run, and its KV heads.

SGLang's cache has one number of KV heads for all layers: the parent's. A layer with fewer holds
each of them several times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Any

import torch

from puzzle.errors import ExportError
from puzzle.models.families import FAMILIES, family_of

# The modules of SGLang with the attention of a family, by the name of the family's children.
CLASSES = MappingProxyType(
    {
        "PuzzleForCausalLM": ("llama", "LlamaAttention"),
        "PuzzleMistralForCausalLM": ("llama", "LlamaAttention"),
        "PuzzleSmolLM3ForCausalLM": ("llama", "LlamaAttention"),
        "PuzzleQwen2ForCausalLM": ("qwen2", "Qwen2Attention"),
        "PuzzleQwen3ForCausalLM": ("qwen3", "Qwen3Attention"),
    }
)


def require_servable(config: Any) -> None:
    """Raises ExportError if SGLang cannot run a layer of a child; it names the layer and why.

    Args:
        config: The child's.
    """
    family, kept = family_of(config), config.num_key_value_heads
    if family not in {FAMILIES[name] for name in ("llama", "mistral", "smollm3", "qwen2", "qwen3")}:
        raise ExportError(f"children of {family.model_types[0]} are not served by SGLang as saved")
    if getattr(config, "mlp_bias", False):
        raise ExportError("mlp_bias=True: SGLang's FFN has no biases; serve the child by vLLM")
    for layer in range(config.num_hidden_layers):
        attention = config.block(layer).attention
        if attention.kind != "gqa":
            continue
        heads = config.layer_config(layer).num_attention_heads
        if attention.window or family.window(config, layer):
            why = "a window, which SGLang has for all layers or none"
        elif kept % attention.kv_heads or heads % kept:
            why = (
                f"{heads} query heads and {attention.kv_heads} KV heads, which do not fit into "
                f"SGLang's cache of {kept} KV heads in each layer"
            )
        else:
            continue
        raise ExportError(f"layer {layer} has {why}; serve the child by vLLM or transformers")


def repeated_heads(
    weights: Iterable[tuple[str, torch.Tensor]], config: Any
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the tensors of a child with as many KV heads in each layer as its parent has.

    Args:
        weights: Names and tensors, as they were saved.
        config: The child's.
    """
    for name, tensor in weights:
        path, _, kind = name.rpartition(".")
        if path.rpartition(".")[2] in ("k_proj", "v_proj"):
            layer = int(path.split(".layers.")[1].partition(".")[0])
            own = config.block(layer).attention.kv_heads
            heads = tensor.unflatten(0, (own, -1))
            tensor = heads.repeat_interleave(config.num_key_value_heads // own, 0).flatten(0, 1)
        yield f"{path}.{kind}", tensor
