"""The plugin that lets vLLM serve children as they are saved: one class for each family.

`register_children` is called in every process of vLLM; the classes are imported where a model is
built.
"""

from __future__ import annotations

from puzzle.models.child_config import config_class
from puzzle.models.families import FAMILIES

# The modules of vLLM that hold a family's own classes, and the prefix of these. SmolLM3 is a Llama
# of which some layers have no rotary positions, and Phi 3 has the layers of a Llama.
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
}


def class_name(family: str) -> str:
    """Returns the name of a family's children, as it is in their `architectures`."""
    prefix = "" if family == "llama" else FAMILIES[family].classes
    return f"Puzzle{prefix}ForCausalLM"


def register_children() -> None:
    """Makes the children of every family known to vLLM; vLLM calls it when it starts."""
    from vllm import ModelRegistry

    for family in STOCK:
        config_class(FAMILIES[family])  # known to AutoConfig from then on
        name = class_name(family)
        ModelRegistry.register_model(name, f"puzzle_vllm.models:{name}")
