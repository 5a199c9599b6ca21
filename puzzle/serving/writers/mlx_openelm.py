"""Children of Qwen 3 as checkpoints of mlx-lm's `openelm`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from puzzle.errors import ExportError
from puzzle.serving.writers.openelm import openelm_layers, plan_openelm
from puzzle.serving.writers.shard_writer import ShardWriter
from puzzle.serving.writers.source import Source
from search_space import Layout

NAMES = {
    "attn_norm": "attn_norm",
    "attn_qkv": "attn.qkv_proj",
    "attn_q_norm": "attn.q_norm",
    "attn_k_norm": "attn.k_norm",
    "attn_output": "attn.out_proj",
    "ffn_norm": "ffn_norm",
    "ffn_up": "ffn.proj_1",
    "ffn_down": "ffn.proj_2",
}


def plan_mlx_openelm(source: Source) -> Layout:
    """Returns the layout that is written; raises ExportError if mlx-lm cannot run the child."""
    kind = source.config.rope_parameters.get("rope_type", "default")
    if kind != "default":
        raise ExportError(f"mlx-lm's openelm has no rope_type={kind!r}; export for 'llama.cpp'")
    return plan_openelm(source, "mlx")


def write_mlx_openelm(source: Source, directory: Path, *, dtype: torch.dtype | None) -> Layout:
    """Writes config and weights.

    Args:
        source: A child of Qwen 3.
        directory: Where to write; exists.
        dtype: Number format of the weights; the child's own if not given.

    Returns:
        The layout that was written.

    Raises:
        ExportError: mlx-lm cannot run the child.
    """
    written, dtype, family = plan_mlx_openelm(source), dtype or source.dtype, source.family
    outer = {
        family.embedding: "transformer.token_embeddings.weight",
        family.norm: "transformer.norm.weight",
        family.head: "lm_head.weight",
    }
    shards = ShardWriter(directory)
    for name, tensor in source.outer_tensors().items():
        shards.add(outer[name], tensor.to(dtype))
    for number, tensors in enumerate(openelm_layers(source, written)):
        # Gate and up are one map, the gate first.
        tensors["ffn_up.weight"] = torch.cat(
            [tensors.pop("ffn_gate.weight"), tensors["ffn_up.weight"]]
        )
        for name, tensor in tensors.items():
            module, _, part = name.rpartition(".")
            place = f"transformer.layers.{number}.{NAMES[module]}.{part}"
            shards.add(place, tensor.to(dtype).contiguous())
    shards.close()
    text = json.dumps(_config(source, written, dtype), indent=2)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")
    return written


def _config(source: Source, written: Layout, dtype: torch.dtype) -> dict[str, Any]:
    shape, config = written.shape, source.config
    return {
        "model_type": "openelm",
        "architectures": ["OpenELMForCausalLM"],
        "dtype": str(dtype).removeprefix("torch."),
        "head_dim": shape.head_dim,
        "num_transformer_layers": shape.layers,
        "model_dim": shape.hidden,
        "vocab_size": shape.vocab,
        "num_query_heads": [block.attention.heads or shape.heads for block in written.blocks],
        "num_kv_heads": [block.attention.kv_heads for block in written.blocks],
        "ffn_multipliers": [(block.ffn.width or 0) / shape.hidden for block in written.blocks],
        "ffn_dim_divisor": 1,
        "ffn_with_glu": True,
        "normalize_qk_projections": True,
        "share_input_output_layers": shape.tied,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_freq_constant": config.rope_parameters["rope_theta"],
        "max_context_length": config.max_position_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
    }
