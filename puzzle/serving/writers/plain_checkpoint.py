"""Checkpoints of the parent's own architecture, for children whose layers are alike.

`AutoModelForCausalLM` opens them without puzzle, and so does every engine that runs the parent.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING

from puzzle.errors import ExportError
from puzzle.models.child_config import NOT_INHERITED, PER_LAYER
from puzzle.models.experts import in_files
from puzzle.models.family import Family
from puzzle.progress.bars import counted
from puzzle.serving.writers.lowering import require_layout
from puzzle.serving.writers.shard_writer import ShardWriter
from puzzle.serving.writers.source import Source
from search_space import Layout
from search_space.fusion import with_blocks
from search_space.plain_layouts import common_halves, kept_layers

logger = logging.getLogger(__name__)
# The config attribute with the numbers of layers that have an FFN among mixtures of experts.
DENSE_LAYERS = "mlp_only_layers"
# Families whose files call the decoder otherwise than the modules of transformers do.
DECODER, DECODERS = "model.", {"nemotron_h": "backbone."}
# How engines read the layers of Nemotron-H; transformers, which reads it too, writes a list.
HALVES = {"linear_attention": "M", "full_attention": "*", "mlp": "-"}


def plain_config(source: Source, dtype: torch.dtype) -> Any:
    """Returns the config of a plain child, of the stock class of its parent's family.

    Raises:
        ExportError: The layers of the child are not all alike; each is named.
    """
    layout, family = source.layout, source.family
    require_layout(layout, "plain")
    layers = kept_layers(layout)
    blocks = [layout.blocks[layer] for layer in layers]
    values = _sizes(source).to_dict()
    for name in NOT_INHERITED:
        values.pop(name, None)
    for name in PER_LAYER:
        if values.get(name):
            values[name] = [values[name][layer] for layer in layers]
    if family.experts is not None and DENSE_LAYERS in dict(family.experts.sparse):
        dense = [number for number, block in enumerate(blocks) if block.ffn.kind != "moe"]
        values[DENSE_LAYERS] = dense if len(dense) < len(blocks) else []
    values |= {
        "num_hidden_layers": len(layers),
        "architectures": [family.stock("ForCausalLM").__name__],
        "dtype": str(dtype).removeprefix("torch."),
    }
    config = CONFIG_MAPPING[family.model_types[0]](**values)
    _require_layers(family, config, with_blocks(layout.shape, blocks))
    return config


def _sizes(source: Source) -> Any:
    """Returns a config of the sizes of the halves that are left."""
    halves, sizes = common_halves(source.layout), source.config
    # Of an FFN and a mixture of experts, each sets how many experts there are: none, and some.
    for half in sorted(halves.values(), key=lambda half: half.kind == "moe"):
        sizes = source.family.layer_config(sizes, half)
    return sizes


def _require_layers(family: Family, config: Any, expected: Layout) -> None:
    """Raises ExportError if a stock config does not say what the layers of a child are."""
    built = Layout.parent(family.shape(config))
    same = all(
        (one.attention.kind, one.ffn) == (other.attention.kind, other.ffn)
        for one, other in zip(built.blocks, expected.blocks, strict=True)
    )
    if not same or built.parameters() != expected.parameters():
        labels = ", ".join(dict.fromkeys(block.label for block in expected.blocks))
        raise ExportError(
            f"a {family.model_types[0]} of {expected.shape.layers} layers {labels} has "
            f"{built.parameters():,} parameters, and the child {expected.parameters():,}: the "
            "family has no config for its layers. Save it with save_pretrained, and load it with "
            "puzzle"
        )


def write_plain(source: Source, directory: Path, *, dtype: torch.dtype | None) -> Layout:
    """Writes config and weights of a plain child.

    Args:
        source: The child.
        directory: Where to write; exists.
        dtype: Number format of the weights; the child's own if not given.

    Returns:
        The layout that was written: that of the layers that are left.

    Raises:
        ExportError: The layers of the child are not all alike, or a tensor has no place.
    """
    dtype = dtype or source.dtype
    config, family = plain_config(source, dtype), source.family
    _warn_of_moved_layers(source, config)
    with torch.device("meta"):
        model = family.stock("ForCausalLM")(config)
    places = {name: tensor.shape for name, tensor in model.state_dict().items()}
    shards, outer = ShardWriter(directory), source.outer_tensors()
    decoder = DECODERS.get(config.model_type, DECODER)
    embedding = family.embedding.replace(DECODER, decoder, 1)
    shards.add(embedding, outer.pop(family.embedding).to(dtype))
    layers = kept_layers(source.layout)
    for number, layer in enumerate(counted(layers, "export", "layer")):
        prefix = family.layer_prefix.format(layer)
        mixture = source.layout.blocks[layer].ffn.kind == "moe" and family.experts
        for name in [name for name in source.tensors if name.startswith(prefix)]:
            place = family.layer_prefix.format(number) + name.removeprefix(prefix)
            tensor = source.tensors[name]
            if places.get(place) != tensor.shape:
                raise ExportError(
                    f"{name} is {list(tensor.shape)}, for which a {config.model_type} has no "
                    "place; was the child altered?"
                )
            pieces = (
                in_files(mixture, family.ffn.module, place, tensor)
                if mixture
                else [(place, tensor)]
            )
            for named, piece in pieces:
                shards.add(named.replace(DECODER, decoder, 1), piece.to(dtype).contiguous())
    for name, tensor in outer.items():
        shards.add(name.replace(DECODER, decoder, 1), tensor.to(dtype))
    shards.close()
    text = json.dumps(_written(family, config), indent=2)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")
    return with_blocks(source.layout.shape, [source.layout.blocks[layer] for layer in layers])


def _warn_of_moved_layers(source: Source, config: Any) -> None:
    """Warns where what layers are differs from what the parent's first ones are."""
    names = [name for name in PER_LAYER if getattr(config, name, None)]
    own = {name: list(getattr(source.config, name))[: len(getattr(config, name))] for name in names}
    if moved := [name for name in names if list(getattr(config, name)) != own[name]]:
        logger.warning(
            "%s of the layers that are left are others than those of the parent's first layers: "
            "engines that compute them from layer numbers, as llama.cpp does in some families, "
            "answer otherwise; remove whole periods of layers for them",
            " and ".join(moved),
        )


def _written(family: Family, config: Any) -> dict[str, Any]:
    """Returns what is written of a config: what its class writes, and what engines read."""
    values: dict[str, Any] = json.loads(config.to_json_string())
    values |= _older_rope(values.get("rope_parameters") or {})
    if family.experts is not None:
        values[family.experts.count] = getattr(config, family.experts.count)
    if config.model_type == "lfm2":
        values |= dict.fromkeys(("block_dim", "conv_dim", "conv_dim_out"), config.hidden_size)
        values["block_ff_dim"] = config.intermediate_size
    if config.model_type == "nemotron_h":
        values["num_hidden_layers"] = len(config.layers_block_type)
        pattern = "".join(HALVES[kind] for kind in config.layers_block_type)
        values["hybrid_override_pattern"] = pattern
    return values


def _older_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """Returns rotary embeddings in the older notation; by that alone mlx-lm and others read them.

    They would take values of their own without a word.
    """
    if "full_attention" in rope:  # tables by type of layer
        older = _older_rope(rope["full_attention"])
        near = rope.get("sliding_attention", {}).get("rope_theta")
        return older if near is None else {**older, "rope_local_base_freq": near}
    older = {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}
    if rope.get("rope_type", "default") != "default":
        older["rope_scaling"] = {key: rope[key] for key in rope if key not in older}
    return older
