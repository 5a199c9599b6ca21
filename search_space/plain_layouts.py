"""Plain layouts: layers that are left are alike, as in a smaller model of the parent's family.

Layers of a hybrid are alike where their halves of the same kind are. The child of such a layout is
a checkpoint of its parent's own architecture, with other numbers in its config, and so runs in
whatever runs its parent.
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


def common_halves(layout: Layout) -> dict[str, Attention | FFN]:
    """Returns, for each kind of half, the one that most layers that are left have.

    Example:
        >>> from search_space import ModelShape
        >>> shape = ModelShape(layers=3, hidden=8, heads=2, head_dim=4, kv_heads=2,
        ...                    ffn_width=16, vocab=32)
        >>> layout = Layout.parent(shape).replace(1, Block.from_label("gqa1+gated16"))
        >>> {kind: half.label for kind, half in common_halves(layout).items()}
        {'gqa': 'gqa2', 'gated': 'gated16'}
    """
    kept = [layout.blocks[layer] for layer in kept_layers(layout)]
    halves = Counter(half for block in kept for half in (block.attention, block.ffn))
    common: dict[str, Attention | FFN] = {}
    for half, _ in halves.most_common():
        if half.kind not in ("none", "linear"):
            common.setdefault(half.kind, half)
    return common


def odd_layers(layout: Layout) -> dict[int, str]:
    """Returns why a layout is not plain, by layer; nothing if it is."""
    pairs = {_kinds(block) for block in layout.shape.parent_blocks}
    common, reasons = common_halves(layout), {}
    for layer in kept_layers(layout):
        block = layout.blocks[layer]
        others = [common.get(half.kind, half) for half in (block.attention, block.ffn)]
        if _kinds(block) not in pairs:
            reasons[layer] = "only whole layers can be removed, and no half is a linear map"
        elif block.attention.window is not None:
            reasons[layer] = "the configs of most families have no place for a window"
        elif others != [block.attention, block.ffn]:
            labels = "+".join(half.label for half in others)
            reasons[layer] = f"most layers are {labels}, and all have to be"
    if not kept_layers(layout):
        reasons[0] = "no layer is left"
    return reasons


def _kinds(block: Block) -> tuple[str, str]:
    return block.attention.kind, block.ffn.kind
