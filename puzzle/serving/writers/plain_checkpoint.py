"""Checkpoints of the parent's own architecture, for children whose layers are all alike.

`AutoModelForCausalLM` opens them without puzzle, and so does every engine that runs the parent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING

from puzzle.errors import ExportError
from puzzle.models.child_config import NOT_INHERITED, PER_LAYER
from puzzle.models.experts import in_files
from puzzle.progress.bars import counted
from puzzle.serving.writers.lowering import require_layout
from puzzle.serving.writers.shard_writer import ShardWriter
from puzzle.serving.writers.source import Source
from search_space import Layout
from search_space.fusion import with_blocks
from search_space.plain_layouts import kept_layers, plain_block


def plain_config(source: Source, dtype: torch.dtype) -> Any:
    """Returns the config of a plain child, of the stock class of its parent's family.

    Raises:
        ExportError: The layers of the child are not all alike; each is named.
    """
    layout, family = source.layout, source.family
    require_layout(layout, "plain")
    block, layers = plain_block(layout), kept_layers(layout)
    sizes = family.layer_config(family.layer_config(source.config, block.attention), block.ffn)
    values = sizes.to_dict()
    for name in NOT_INHERITED:
        values.pop(name, None)
    for name in PER_LAYER:
        if values.get(name):
            values[name] = [values[name][layer] for layer in layers]
    values |= {
        "num_hidden_layers": len(layers),
        "architectures": [family.stock("ForCausalLM").__name__],
        "dtype": str(dtype).removeprefix("torch."),
    }
    config = CONFIG_MAPPING[family.model_types[0]](**values)
    expected = with_blocks(layout.shape, [block] * len(layers)).parameters()
    built = Layout.parent(family.shape(config)).parameters()
    if built != expected:
        raise ExportError(
            f"a {family.model_types[0]} of {len(layers)} layers {block.label} has {built:,} "
            f"parameters, and the child {expected:,}: the family has no config for its layers. "
            "Save it with save_pretrained, and load it with puzzle"
        )
    return config


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
    with torch.device("meta"):
        model = family.stock("ForCausalLM")(config)
    places = {name: tensor.shape for name, tensor in model.state_dict().items()}
    shards, outer = ShardWriter(directory), source.outer_tensors()
    shards.add(family.embedding, outer.pop(family.embedding).to(dtype))
    layers, block = kept_layers(source.layout), plain_block(source.layout)
    for number, layer in enumerate(counted(layers, "export", "layer")):
        prefix = family.layer_prefix.format(layer)
        for name in [name for name in source.tensors if name.startswith(prefix)]:
            place = family.layer_prefix.format(number) + name.removeprefix(prefix)
            tensor = source.tensors[name]
            if places.get(place) != tensor.shape:
                raise ExportError(
                    f"{name} is {list(tensor.shape)}, for which a {config.model_type} has no "
                    "place; was the child altered?"
                )
            mixture = block.ffn.kind == "moe" and family.experts
            pieces = (
                in_files(mixture, family.ffn.module, place, tensor)
                if mixture
                else [(place, tensor)]
            )
            for named, piece in pieces:
                shards.add(named, piece.to(dtype).contiguous())
    for name, tensor in outer.items():
        shards.add(name, tensor.to(dtype))
    shards.close()
    text = json.dumps(json.loads(config.to_json_string()), indent=2)
    (directory / "config.json").write_text(text + "\n", encoding="utf-8")
    return with_blocks(source.layout.shape, [source.layout.blocks[layer] for layer in layers])
