"""build_library(): one forward sweep over the parent, one artifact per layer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from puzzle.data import Windows
from puzzle.library.fit import RIDGES
from puzzle.library.layer import BATCH, HELD_OUT, LayerFit
from puzzle.parents import Parent
from puzzle.tensor_files import save_tensors
from puzzle.workspace import Artifact, Workspace
from search_space import Block, Layout, SearchSpace

KIND, TENSORS, ERRORS = "library-layer", "variants.safetensors", "errors.json"
# Part of every layer's name: raise it when a change of the code changes the weights.
METHOD = 1


class Variants:
    """The weights of one layer's blocks; what is read from disk is read once.

    A variant stores only what differs from the parent; the rest is the parent's.

    Args:
        parent: The parent.
        layer: The layer's number.
        artifact: The layer's variants.
    """

    def __init__(self, parent: Parent, layer: int, artifact: Artifact) -> None:
        self.parent, self.layer, self.artifact = parent, layer, artifact

    @cached_property
    def own(self) -> dict[str, torch.Tensor]:
        """The parent's tensors of the layer."""
        return self.parent.layer_tensors(self.layer)

    @cached_property
    def stored(self) -> dict[str, torch.Tensor]:
        """What the variants do not share with the parent."""
        return self.artifact.load_tensors(TENSORS)

    def block_tensors(self, block: Block) -> dict[str, torch.Tensor]:
        """Returns the weights of one block under their names within the layer."""
        if block == self.parent.shape.parent_block:
            return self.own
        return {**_attention(self.own, self.stored, block), **_ffn(self.own, self.stored, block)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Library:
    """The variants of every layer, on disk.

    Args:
        parent: The parent they replace parts of.
        layers: One artifact per layer.
    """

    parent: Parent
    layers: tuple[Artifact, ...]

    def errors(self, layer: int) -> dict[str, float]:
        """Returns the held-out local error of each block of a layer.

        The error is the power of what the block misses, as a share of the power of the parent
        layer's update of the residual stream: 0 for the parent, 1 for no layer at all.
        """
        return dict(self.layers[layer].load_json(ERRORS))

    def variants(self, layer: int) -> Variants:
        """Returns the weights of a layer's blocks."""
        return Variants(self.parent, layer, self.layers[layer])

    def child_tensors(self, layout: Layout) -> dict[str, torch.Tensor]:
        """Returns the whole state dict of a layout's child."""
        found = self.parent.outer_tensors()
        for layer, block in enumerate(layout.blocks):
            prefix = self.parent.family.layer_prefix.format(layer)
            for name, tensor in self.variants(layer).block_tensors(block).items():
                found[prefix + name] = tensor
        return found


def _below(stored: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}


def _attention(
    own: dict[str, torch.Tensor], stored: dict[str, torch.Tensor], block: Block
) -> dict[str, torch.Tensor]:
    if block.attention.kind == "none":
        return {}
    norm = {k: v for k, v in own.items() if k.startswith("input_layernorm")}
    changed = _below(stored, f"attention/{block.attention.label}/")
    if block.attention.kind == "linear":
        return {**norm, **changed}
    return {**norm, **{k: v for k, v in own.items() if k.startswith("self_attn")}, **changed}


def _ffn(
    own: dict[str, torch.Tensor], stored: dict[str, torch.Tensor], block: Block
) -> dict[str, torch.Tensor]:
    if block.ffn.kind == "none":
        return {}
    norm = {k: v for k, v in own.items() if k.startswith("post_attention_layernorm")}
    changed = _below(stored, f"ffn/{block.attention.label}/{block.ffn.label}/")
    if block.ffn.kind == "linear":
        return {**norm, **changed}
    kept = changed.pop("channels").long()
    rows = {k: v[kept] for k, v in own.items() if k.startswith(("mlp.gate_proj", "mlp.up_proj"))}
    bias = {k: v for k, v in own.items() if k == "mlp.down_proj.bias"}
    return {**norm, **rows, **bias, **changed}


@torch.no_grad()
def build_library(
    parent: Parent, space: SearchSpace, windows: Windows, *, workspace: Workspace
) -> Library:
    """Returns the library of a space, built in one sweep over the parent's layers.

    Finished layers are found by the hash of all they depend on and not built again. Memory
    holds one layer and the activations of one layer boundary, whatever the depth.

    Args:
        parent: The parent.
        space: The alternatives of each layer.
        windows: The text; only its fit part is used.
        workspace: Where the layers are stored.
    """
    specs = [_spec(parent, space, windows, layer) for layer in range(parent.shape.layers)]
    artifacts = tuple(workspace.artifact(KIND, spec) for spec in specs)
    if not all(artifact.sound() for artifact in artifacts):
        x_BLD = parent.embed(windows.fit)
        for index in tqdm(range(parent.shape.layers), desc="library", unit="layer"):
            layer = parent.layer(index)
            job = LayerFit(parent, index, layer, x_BLD)
            workspace.get_or_build(KIND, specs[index], partial(_write, job, space))
            x_BLD = torch.cat([parent.run(layer, x) for x in x_BLD.split(BATCH)])
    return Library(parent=parent, layers=artifacts)


def _spec(parent: Parent, space: SearchSpace, windows: Windows, layer: int) -> dict[str, Any]:
    return {
        "method": METHOD,
        "parent": parent.identity,
        "layer": layer,
        "attentions": [a.label for a in space.attentions[layer]],
        "ffns": [f.label for f in space.ffns[layer]],
        "fit": windows.hash("fit"),
        "ridges": list(RIDGES),
        "held_out": HELD_OUT,
    }


def _write(job: LayerFit, space: SearchSpace, directory: Path) -> None:
    job.build(space.attentions[job.index], space.ffns[job.index])
    save_tensors(directory / TENSORS, job.tensors)
    (directory / ERRORS).write_text(json.dumps(job.errors, indent=1), encoding="utf-8")
