"""Children of Qwen 3 as OpenELMs, whose layers have heads and widths of their own.

llama.cpp and mlx-lm have that architecture, with norms of queries and keys as in Qwen 3.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from puzzle.errors import ExportError
from puzzle.serving.writers.source import Source
from search_space import FFN, Attention, Block, Layout
from search_space.fusion import with_blocks
from search_space.plain_layouts import kept_layers

ZERO_WIDTH = 32
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def plan_openelm(source: Source, engine: str, *, multiple: int = 1) -> Layout:
    """Returns the layout that is written: empty layers left out, removed halves of zeros.

    Args:
        source: A child of Qwen 3.
        engine: "llama.cpp" or "mlx".
        multiple: FFN widths are padded up to a multiple of this.

    Raises:
        ExportError: The child has biases or linear maps, or for llama.cpp a head of its own.
    """
    shape, instead = source.layout.shape, "Serve it with vLLM, or search in the space 'plain'"
    what = None
    if shape.attention_bias:
        what = "biases, and openelm, which runs children of qwen3 there, has none"
    elif not shape.tied and engine == "llama.cpp":
        what = (
            "an output head of its own, and openelm, which runs children of qwen3 there, has none"
        )
    if what:
        raise ExportError(f"for {engine}: this qwen3 has {what}. {instead}")
    blocks = []
    for layer in kept_layers(source.layout):
        block = source.layout.blocks[layer]
        if "linear" in (block.attention.kind, block.ffn.kind) or block.attention.window:
            raise ExportError(
                f"layer {layer} ({block.label}): {engine}'s openelm, which runs children of "
                f"qwen3, has neither linear sublayers nor windows. {instead}"
            )
        attention, width = block.attention, block.ffn.width or ZERO_WIDTH
        if attention.kind == "none":
            attention = Attention("gqa", 1, heads=1)
        wider = FFN("gated", -(-width // multiple) * multiple, weights=block.ffn.weights)
        written = Block(attention, wider)
        blocks.append(written if engine == "llama.cpp" else written.unquantised)
    if not blocks:
        raise ExportError("no layer of the child does anything; there is nothing to serve")
    return with_blocks(shape, blocks)


def openelm_layers(source: Source, written: Layout) -> Iterator[dict[str, torch.Tensor]]:
    """Yields the tensors of each layer that is written, under llama.cpp's names within a layer."""
    names = list(source.tensors)
    for number, layer in enumerate(kept_layers(source.layout)):
        prefix = source.family.layer_prefix.format(layer)
        own = {n.removeprefix(prefix): source.tensors[n] for n in names if n.startswith(prefix)}
        block, like = source.layout.blocks[layer], next(iter(own.values()))
        tensors: dict[str, torch.Tensor] = {}
        if block.attention.kind == "none":
            tensors |= _zero_attention(written, like)
        else:
            parts = [own.pop(f"self_attn.{name}_proj.weight") for name in "qkv"]
            tensors["attn_qkv.weight"] = torch.cat(parts)
        if block.ffn.kind == "none":
            tensors["ffn_norm.weight"] = like.new_ones(written.shape.hidden)
            empty = like.new_zeros(0, written.shape.hidden)
            own |= {"mlp.gate_proj.weight": empty, "mlp.up_proj.weight": empty}
            own["mlp.down_proj.weight"] = empty.T
        width = written.blocks[number].ffn.width or 0
        for name, tensor in own.items():
            module, _, part = name.rpartition(".")
            tensors[f"{NAMES[module]}.{part}"] = _padded(module, tensor, width)
        yield tensors


def _zero_attention(written: Layout, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns an attention of one head that adds nothing."""
    hidden, head_dim = written.shape.hidden, written.shape.head_dim
    return {
        "attn_norm.weight": like.new_ones(hidden),
        "attn_qkv.weight": like.new_zeros(3 * head_dim, hidden),
        "attn_q_norm.weight": like.new_ones(head_dim),
        "attn_k_norm.weight": like.new_ones(head_dim),
        "attn_output.weight": like.new_zeros(hidden, head_dim),
    }


def _padded(module: str, tensor: torch.Tensor, width: int) -> torch.Tensor:
    """Returns a map of an FFN with channels of zeros up to a width."""
    if module in ("mlp.gate_proj", "mlp.up_proj"):
        return torch.cat([tensor, tensor.new_zeros(width - tensor.shape[0], tensor.shape[1])])
    if module == "mlp.down_proj":
        return torch.cat([tensor, tensor.new_zeros(tensor.shape[0], width - tensor.shape[1])], 1)
    return tensor
