"""What one of several devices holds of a block where they share each layer (tensor parallelism).

As vLLM divides layers: query heads and channels evenly, key-value heads evenly or, where there are
fewer than devices, each on several of them; a linear map in place of a sublayer whole on each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from search_space.blocks import FFN, Attention, Block
from search_space.counting import query_heads

if TYPE_CHECKING:
    from search_space.shape import ModelShape


def device_share(shape: ModelShape, block: Block, devices: int) -> Block | None:
    """Returns the block of one device's sizes; None where engines cannot divide it.

    A hybrid's mixer, which has no sizes, is returned as it is.

    Args:
        shape: The parent's sizes.
        block: The block.
        devices: How many devices share it.

    Example:
        >>> from search_space import ModelShape
        >>> shape = ModelShape(layers=2, hidden=64, heads=8, head_dim=8, kv_heads=2,
        ...                    ffn_width=256, vocab=100)
        >>> [device_share(shape, Block.from_label(label), 4) for label in
        ...  ("gqa2+gated256", "linear+none", "none+gated250")]
        [Block('gqa1h2+gated64'), Block('linear+none'), None]
    """
    if devices == 1:
        return block
    attention, ffn = block.attention, block.ffn
    if attention.kind == "gqa":
        heads, kv_heads = query_heads(shape, attention), attention.kv_heads or 1
        if heads % devices or (kv_heads % devices and devices % kv_heads):
            return None
        attention = replace(attention, kv_heads=max(1, kv_heads // devices), heads=heads // devices)
    if ffn.width is not None:
        if ffn.width % devices:
            return None
        ffn = replace(ffn, width=ffn.width // devices)
    return Block(attention, ffn)


def is_divided(part: Attention | FFN) -> bool:
    """Returns whether devices divide a sublayer, and so have to add up their outputs."""
    return part.kind not in ("none", "linear")
