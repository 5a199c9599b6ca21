"""The plugin that lets vLLM serve children as they are saved: one class for each family.

`register_children` is called in every process of vLLM; the classes are imported where a model is
built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from puzzle.models.child_config import config_class
from puzzle.models.families import FAMILIES

# The modules of vLLM that hold a family's own classes, and the prefix of these. SmolLM3 is a Llama
# of which some layers have no rotary positions, and Phi 3 has the layers of a Llama. Modules of
# ours hold what vLLM's have not.
STOCK = {
    "llama": ("llama", "Llama"),
    "mistral": ("mistral", "Mistral"),
    "qwen2": ("qwen2", "Qwen2"),
    "qwen3": ("qwen3", "Qwen3"),
    "smollm3": ("llama", "Llama"),
    "phi3": ("phi3", "Phi3"),
    "granite": ("granite", "Granite"),
    "gemma2": ("gemma2", "Gemma2"),
    "gemma3_text": ("gemma3", "Gemma3"),
    "olmo2": ("puzzle_vllm.olmo", "Olmo"),
    "olmo3": ("puzzle_vllm.olmo", "Olmo"),
    "qwen3_moe": ("puzzle_vllm.mixtures", "Qwen3Moe"),
    "mixtral": ("puzzle_vllm.mixtures", "Mixtral"),
    "gpt_oss": ("puzzle_vllm.gpt_oss", "GptOss"),
    "lfm2": ("lfm2", "Lfm2"),
    "nemotron_h": ("nemotron_h", "NemotronH"),
    "qwen3_next": ("qwen3_next", "Qwen3Next"),
    "qwen3_5_text": ("qwen3_5", "Qwen3_5"),
}
# vLLM's modules whose names are not those of transformers.
RENAMED = {"mixtral": {"mlp": "block_sparse_moe"}, "gpt_oss": {"self_attn": "attn"}}
# How vLLM reads the layers of Nemotron-H.
HALVES = {"linear_attention": "M", "full_attention": "*", "mlp": "-"}
# What vLLM's classes read of a config that transformers' has not, or has under another name.
READ: dict[str, dict[str, Callable[[Any], Any]]] = {
    "lfm2": dict.fromkeys(("block_dim", "conv_dim", "conv_dim_out"), lambda c: c.hidden_size),
    "nemotron_h": {
        "hybrid_override_pattern": lambda c: "".join(HALVES[kind] for kind in c.layers_block_type)
    },
}


def class_name(family: str) -> str:
    """Returns the name of a family's children, as it is in their `architectures`."""
    prefix = "" if family == "llama" else FAMILIES[family].classes
    return f"Puzzle{prefix}ForCausalLM"


def register_children() -> None:
    """Makes the children of every family known to vLLM; vLLM calls it when it starts."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    for family, (_, prefix) in STOCK.items():
        config = config_class(FAMILIES[family])  # known to AutoConfig from then on
        for attribute, value in READ.get(family, {}).items():
            setattr(config, attribute, property(value))
        name = class_name(family)
        ModelRegistry.register_model(name, f"puzzle_vllm.models:{name}")
        # What vLLM settles by the name of its own class, such as the format of states.
        if settled := MODELS_CONFIG_MAP.get(f"{prefix}ForCausalLM"):
            MODELS_CONFIG_MAP[name] = settled
