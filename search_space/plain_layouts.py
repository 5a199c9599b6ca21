"""Plain layouts: the same block in all layers that are left, as in a smaller model of the family.

The child of such a layout is a checkpoint of its parent's own architecture, with other numbers in
its config, and so runs in whatever runs its parent.
"""

from __future__ import annotations

from collections import Counter

from search_space.blocks import FFN, Attention, Block
from search_space.layout import Layout

EMPTY = Block(Attention("none"), FFN("none"))


def kept_layers(layout: Layout) -> tuple[int, ...]:
    """Returns the layers that are not removed whole.

    Example:
        >>> from search_space import ModelShape
        >>> shape = ModelShape(layers=3, hidden=8, heads=2, head_dim=4, kv_heads=2,
        ...                    ffn_width=16, vocab=32)
        >>> kept_layers(Layout.parent(shape).replace(1, EMPTY))
        (0, 2)
    """
    return tuple(layer for layer, block in enumerate(layout.blocks) if block != EMPTY)


def plain_block(layout: Layout) -> Block:
    """Returns the block that most layers have, which in a plain layout all have that are left."""
    blocks = Counter(block for block in layout.blocks if _is_whole(block))
    return blocks.most_common(1)[0][0] if blocks else layout.shape.parent_blocks[0]


def odd_layers(layout: Layout) -> dict[int, str]:
    """Returns why a layout is not plain, by layer; nothing if it is."""
    common = plain_block(layout)
    reasons = {}
    for layer in kept_layers(layout):
        block = layout.blocks[layer]
        if not _is_whole(block):
            reasons[layer] = "only whole layers can be removed, and no half is a linear map"
        elif block.attention.window is not None:
            reasons[layer] = "the configs of most families have no place for a window"
        elif block != common:
            reasons[layer] = f"most layers are {common.label}, and all have to be"
    if not kept_layers(layout):
        reasons[0] = "no layer is left"
    return reasons


def _is_whole(block: Block) -> bool:
    halves = {block.attention.kind, block.ffn.kind}
    return not halves & {"none", "linear"}
