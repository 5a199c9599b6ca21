"""Checkpoints of NVIDIA's Nemotron Super and Ultra, and of DeciLM, as given children of a Llama.

Their configs name a class that comes as Python code with the weights. It is not run: the layers are
those of a child, which this project has itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from puzzle.errors import ParentError
from puzzle.models.child_config import PuzzleConfig
from search_space.formats import layout_from_json

MODEL_TYPES = ("nemotron-nas", "deci")
# What the format calls a linear map in place of a half, and what a child calls it.
_LINEAR = re.compile(r"\.(self_attn|mlp)\.(?:linear_attn|linear_mlp|linear)\.weight$")
KEY_MAPPING = {_LINEAR.pattern: r".\1.linear_proj.weight"}
_COPIED = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
    *("max_position_embeddings", "initializer_range", "rms_norm_eps", "tie_word_embeddings"),
    *("attention_bias", "attention_dropout", "mlp_bias"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype"),
)
# Ropes in the notation of transformers 5, else in the older one.
_ROPES = ("rope_parameters", "rope_theta", "rope_scaling")


def is_nemotron_nas(config: Mapping[str, Any]) -> bool:
    """Returns whether a config.json is of this format."""
    return config.get("model_type") in MODEL_TYPES


def nemotron_nas_config(config: Mapping[str, Any], source: Path) -> PuzzleConfig:
    """Returns the config of a child with the layers of a config.json of this format.

    Args:
        config: The config.json.
        source: Its directory, for messages.

    Raises:
        ParentError: A layer is none that a child of a Llama can have; it is said which.
    """
    try:
        layout = layout_from_json(config)
    except ValueError as error:
        raise ParentError(
            f"the layers of {source} ({config['model_type']}) cannot be read: {error}"
        ) from error
    shape = layout.shape
    values = {name: config[name] for name in _COPIED if config.get(name) is not None}
    ropes = _ROPES[:1] if config.get(_ROPES[0]) else _ROPES[1:]
    return PuzzleConfig(
        **values,
        **{name: config[name] for name in ropes if config.get(name) is not None},
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.ffn_width,
        blocks=[block.label for block in layout.blocks],
    )


def child_name(name: str) -> str:
    """Returns the name that a child has for a tensor of this format."""
    return _LINEAR.sub(r".\1.linear_proj.weight", name)
