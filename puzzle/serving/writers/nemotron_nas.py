"""Checkpoints of the `nemotron-nas` format, which vLLM, mlx-lm, TensorRT-LLM and SGLang read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

import puzzle_vllm
from puzzle.errors import ExportError
from puzzle.progress.bars import counted
from puzzle.serving.writers.lowering import (
    LINEAR,
    WrittenLayer,
    each_layer,
    lower,
    needs_ffn_biases,
    width_multiple,
)
from puzzle.serving.writers.shard_writer import ShardWriter
from puzzle.serving.writers.source import Source
from search_space import Layout
from search_space.formats import (
    FFN_MULTIPLE,
    PER_LAYER_DEFAULTS,
    to_block_configs,
    to_per_layer_config,
)

CONFIG_FILE = "configuration_decilm.py"
# What a linear map in place of a sublayer is called in each engine that has one.
LINEAR_NAMES = {
    "mlx": {"self_attn": "self_attn.linear.weight", "mlp": "mlp.linear.weight"},
    "tensorrt-llm": {
        "self_attn": "self_attn.linear_attn.weight",
        "mlp": "mlp.linear_mlp.weight",
    },
}
# Halves that have no biases there; read in their code.
NO_BIASES = {"tensorrt-llm": ("attention", "FFN"), "sglang": ("FFN",)}
_COPIED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def plan_nemotron_nas(source: Source, engine: str) -> tuple[Layout, list[WrittenLayer]]:
    """Returns the layout that would be written for an engine, and where its layers come from.

    Raises:
        ExportError: The engine cannot run the child.
    """
    shape = source.layout.shape
    if engine == "mlx" and shape.hidden != shape.heads * shape.head_dim:
        raise ExportError(
            f"mlx-lm needs heads of hidden / heads = {shape.hidden}/{shape.heads} channels; this "
            f"child's have {shape.head_dim}. Export for another engine: 'vllm', 'llama.cpp'"
        )
    _rope(source.config, engine)
    if engine in NO_BIASES:
        biased = {"attention": shape.attention_bias, "FFN": shape.mlp_bias}
        for half in NO_BIASES[engine]:
            if biased[half]:
                raise ExportError(
                    f"this child's {half} has biases, and {engine}'s Llama with layers that differ "
                    "has none there. Export for 'vllm' or 'llama.cpp', or search in the space "
                    "'plain' and export for 'plain'"
                )
    return lower(source.layout, engine, multiple=width_multiple(engine))


def write_nemotron_nas(
    source: Source, directory: Path, *, engine: str, dtype: torch.dtype | None
) -> Layout:
    """Writes config, weights and the config's class for one engine.

    Args:
        source: The child.
        directory: Where to write; exists.
        engine: "vllm", "mlx", "tensorrt-llm" or "sglang".
        dtype: Number format of the weights; the child's own if not given.

    Returns:
        The layout that was written.

    Raises:
        ExportError: The engine cannot run the child.
    """
    written, layers = plan_nemotron_nas(source, engine)
    dtype = dtype or source.dtype
    biases = source.layout.shape.mlp_bias or needs_ffn_biases(layers)
    shards = ShardWriter(directory)
    names = LINEAR_NAMES.get(engine, {})
    steps = each_layer(source.layout, layers, source.tensors, ffn_biases=biases)
    outer = source.outer_tensors()
    shards.add("model.embed_tokens.weight", outer.pop("model.embed_tokens.weight").to(dtype))
    for number, _, tensors in counted(steps, "export", "layer", len(layers)):
        for name, tensor in tensors.items():
            sublayer, _, rest = name.partition(".")
            name = names[sublayer] if rest == LINEAR else name
            shards.add(f"model.layers.{number}.{name}", tensor.to(dtype))
        if engine == "mlx":
            _add_linear_biases(shards, number, written, source, dtype)
    for name, tensor in outer.items():
        shards.add(name, tensor.to(dtype))
    shards.close()
    config = _config(source, written, engine, dtype, biases)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(Path(puzzle_vllm.__file__).with_name(CONFIG_FILE), directory / CONFIG_FILE)
    return written


def _add_linear_biases(
    shards: ShardWriter, number: int, written: Layout, source: Source, dtype: torch.dtype
) -> None:
    """Adds the zero biases that mlx-lm's linear maps have where the sublayers have biases."""
    block, shape = written.blocks[number], source.layout.shape
    sublayers = (
        ("self_attn", block.attention.kind, shape.attention_bias),
        ("mlp", block.ffn.kind, shape.mlp_bias),
    )
    for sublayer, kind, biased in sublayers:
        if kind == "linear" and biased:
            name = f"model.layers.{number}.{sublayer}.linear.bias"
            shards.add(name, torch.zeros(shape.hidden, dtype=dtype))


def _config(
    source: Source, written: Layout, engine: str, dtype: torch.dtype, biases: bool
) -> dict[str, Any]:
    widths = [block.ffn.width or 0 for block in written.blocks]
    everywhere = all(width % FFN_MULTIPLE == 0 for width in widths)
    config: dict[str, Any] = {
        "model_type": "nemotron-nas",
        "architectures": ["DeciLMForCausalLM"],
        "auto_map": {"AutoConfig": f"{CONFIG_FILE.removesuffix('.py')}.DeciLMConfig"},
        "dtype": str(dtype).removeprefix("torch."),
        "num_hidden_layers": written.shape.layers,
        **{name: getattr(source.config, name, None) for name in _COPIED},
        "mlp_bias": biases,
        **_rope(source.config, engine),
        "use_cache": True,
        "block_configs": to_block_configs(
            written, widths="ffn_mult" if everywhere else "intermediate_size"
        ),
    }
    sparse = to_per_layer_config(written)
    if sparse:
        config["per_layer_config"] = sparse
        used = {name for values in sparse.values() for name in values}
        config |= {name: value for name, value in PER_LAYER_DEFAULTS.items() if name in used}
    return config


def _rope(config: Any, engine: str) -> dict[str, Any]:
    """Returns the rotary embedding in both notations: that of transformers 5 and the older."""
    rope = dict(config.rope_parameters)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise ExportError(
            f"rope_type={kind!r} has not been tried with {engine}; allowed: 'default', 'linear', "
            "'llama3'"
        )
    older = {key: value for key, value in rope.items() if key != "rope_theta"}
    return {
        "rope_parameters": rope,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None if kind == "default" else older,
    }
