"""Parents whose layers differ: the blocks that their layers have, and the types for blocks."""

from __future__ import annotations

from typing import Any

from puzzle.errors import ParentError
from search_space.blocks import FFN, Attention, Block


def layer_types(config: Any) -> list[str] | None:
    """Returns the type of each layer, in families whose configs tell them."""
    kinds: list[str] | None = getattr(config, "layer_types", None)
    return kinds


def layer_blocks(family: Any, config: Any, kv_heads: int, width: int) -> tuple[Block, ...] | None:
    """Returns the parent's block of each layer; None where all are of these sizes.

    Raises:
        ParentError: A layer is of a type that is not known.
    """
    attention, ffn = Attention("gqa", kv_heads), FFN("gated", width)
    kinds, layers = layer_types(config), range(config.num_hidden_layers)
    ffns = [ffn for _ in layers]
    if family.experts is not None:
        sparse = [family.experts.is_sparse(config, index) for index in layers]
        mixture = family.experts.ffn(config) if any(sparse) else ffn
        ffns = [mixture if has else ffn for has in sparse]
    if not family.mixers or kinds is None:
        return None if family.experts is None else tuple(Block(attention, own) for own in ffns)
    known = {mixer.layer_type: Attention(mixer.kind) for mixer in family.mixers}
    known["full_attention"] = attention
    allowed = {*known, *([family.ffn_layers] if family.ffn_layers else [])}
    if unknown := sorted(set(kinds) - allowed):
        raise ParentError(
            f"layers of the types {unknown} of a {family.model_types[0]} are not searched yet; "
            f"allowed: {sorted(allowed)}"
        )
    none = FFN("none")
    if family.ffn_layers is not None:  # layers are one half only
        ffns = [own if kind not in known else none for own, kind in zip(ffns, kinds, strict=True)]
    return tuple(
        Block(known.get(kind, Attention("none")), own)
        for kind, own in zip(kinds, ffns, strict=True)
    )


def layer_type(family: Any, block: Block) -> str | None:
    """Returns the type that a hybrid's layer has to have for a block; None for any type."""
    if block.attention.kind == "gqa":
        return "full_attention"
    if (mixer := family.mixer(block.attention)) is not None:
        return mixer.layer_type
    return family.ffn_layers if block.ffn.kind == "gated" else None
