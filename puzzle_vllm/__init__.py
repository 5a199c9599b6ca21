"""The plugin that lets vLLM open exported children without a flag.

It is a package of its own because vLLM imports its plugins in every process: this one imports
nothing but transformers, which vLLM has loaded.
"""

from __future__ import annotations

from transformers import AutoConfig

from puzzle_vllm.configuration_decilm import DeciLMConfig


def register() -> None:
    """Makes the `nemotron-nas` config known to transformers; vLLM calls it when it starts."""
    AutoConfig.register(DeciLMConfig.model_type, DeciLMConfig, exist_ok=True)
