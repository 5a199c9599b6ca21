"""Plain layouts: layers that are left are alike, as in a smaller model of the parent's family.

Layers of a hybrid are alike where their halves of the same kind are. The child of such a layout is
a checkpoint of its parent's own architecture, with other numbers in its config, and so runs in
whatever runs its parent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from search_space.blocks import FFN, MIXERS, Attention, Block
from search_space.layout import Layout
from search_space.shape import ModelShape

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
        {'gated': 'gated16', 'gqa': 'gqa2'}
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
    pairs = {half_kinds(block) for block in layout.shape.parent_blocks}
    common, reasons = common_halves(layout), {}
    for layer in kept_layers(layout):
        block = layout.blocks[layer]
        others = [common.get(half.kind, half) for half in (block.attention, block.ffn)]
        if half_kinds(block) not in pairs:
            reasons[layer] = "only whole layers can be removed, and no half is a linear map"
        elif block.attention.window is not None:
            reasons[layer] = "the configs of most families have no place for a window"
        elif others != [block.attention, block.ffn]:
            labels = "+".join(half.label for half in others)
            reasons[layer] = f"most layers are {labels}, and all have to be"
    if not kept_layers(layout):
        reasons[0] = "no layer is left"
    return reasons


def half_kinds(block: Block) -> tuple[str, str]:
    """Returns the kinds of a block's attention and FFN."""
    return block.attention.kind, block.ffn.kind


def is_plain(block: Block, own: Block) -> bool:
    """Returns whether a block can be in a plain layout, in the place of the parent's own."""
    alike = half_kinds(block) == half_kinds(own) and block.attention.window is None
    return alike or block in (own, EMPTY)


def counted_choices(
    shape: ModelShape, blocks: Iterable[Block]
) -> list[tuple[tuple[int, ...], dict[str, str | None]]]:
    """Returns what a bound on different blocks counts, once for each count.

    Blocks are counted in layers of one kind of the parent's, so that a hybrid's pattern is not a
    difference; and where there are several kinds, halves of each kind in all layers. With one of
    each, a layout of blocks that `is_plain` allows is plain.

    Args:
        shape: The parent's sizes.
        blocks: All that layers may have.

    Returns:
        The layers of each count, and what it takes each block for, by label: None is not counted.

    Example:
        >>> own = tuple(map(Block.from_label, ["conv+gated16", "gqa2+gated16"]))
        >>> shape = ModelShape(layers=2, hidden=8, heads=2, head_dim=4, kv_heads=2,
        ...                    ffn_width=16, vocab=32, blocks=own)
        >>> for layers, names in counted_choices(shape, [own[1], EMPTY]):
        ...     print(layers, names)
        (0,) {'gqa2+gated16': 'gqa2+gated16', 'none+none': None}
        (1,) {'gqa2+gated16': 'gqa2+gated16', 'none+none': None}
        (0, 1) {'gqa2+gated16': 'gated16', 'none+none': None}
        (0, 1) {'gqa2+gated16': 'gqa2', 'none+none': None}
    """
    of_kind: dict[tuple[str, str], list[int]] = {}
    for layer, block in enumerate(shape.parent_blocks):
        of_kind.setdefault(half_kinds(block), []).append(layer)
    known = {block.label: block for block in blocks}
    whole = {label: None if block == EMPTY else label for label, block in known.items()}
    counts = [(tuple(layers), whole) for layers in of_kind.values()]
    if len(counts) == 1:
        return counts
    halves = {
        label: {half.kind: half.label for half in (block.attention, block.ffn)}
        for label, block in known.items()
    }
    kinds = {kind for named in halves.values() for kind in named} - {"none", "linear", *MIXERS}
    for kind in sorted(kinds):
        names = {label: named.get(kind) for label, named in halves.items()}
        counts.append((tuple(range(shape.layers)), names))
    return counts
