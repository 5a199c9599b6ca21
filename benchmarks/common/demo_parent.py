"""SmolLM2-135M-Instruct, the demo's parent, as benchmarks open it and change it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzle.demo import fetch_demo_model
from puzzle.models.assembling import assemble
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.parent import Parent, open_parent
from puzzle.storage.workspace import Workspace
from search_space import Block, Layout

if TYPE_CHECKING:
    # torch is loaded by puzzle, which shortens OpenMP's spin first.
    import torch


def open_demo_parent(out: Path | str | Workspace, **options: Any) -> Parent:
    """Returns the parent, its weights unpacked into a run directory.

    Args:
        out: The run directory, or its workspace.
        options: As for `open_parent`.
    """
    workspace = out if isinstance(out, Workspace) else Workspace(out)
    return open_parent(fetch_demo_model(), workspace=workspace, **options)


def as_child(parent: Parent, dtype: torch.dtype | None = None) -> PuzzleForCausalLM:
    """Returns the child that is its parent, which is timed and evaluated beside other children.

    Args:
        parent: The parent.
        dtype: The number format of the child's weights; that of the parent unless given.
    """
    own = Layout.parent(parent.shape)
    return assemble(parent.config, own, parent.state_dict(), dtype=dtype or parent.dtype)


def without_attention(
    parent: Parent, layers: Iterable[int], dtype: torch.dtype
) -> PuzzleForCausalLM:
    """Returns the parent without the attention of some layers, nothing refitted."""
    layout, tensors = Layout.parent(parent.shape), dict(parent.state_dict())
    block = Block.from_label(f"none+gated{parent.shape.ffn_width}")
    for layer in layers:
        layout = layout.replace(layer, block)
        removed = tuple(
            f"model.layers.{layer}.{part}." for part in ("self_attn", "input_layernorm")
        )
        tensors = {n: tensor for n, tensor in tensors.items() if not n.startswith(removed)}
    return assemble(parent.config, layout, tensors, dtype=dtype)
