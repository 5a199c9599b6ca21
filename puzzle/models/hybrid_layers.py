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
    if family.experts is not None:
        sparse, has = family.experts.ffn(config), family.experts.is_sparse
        return tuple(
            Block(attention, sparse if has(config, index) else ffn)
            for index in range(config.num_hidden_layers)
        )
    kinds = layer_types(config)
    if not family.mixers or kinds is None:
        return None
    known = {mixer.layer_type: Attention(mixer.kind) for mixer in family.mixers}
    known["full_attention"] = attention
    whole = {kind: Block(half, ffn) for kind, half in known.items()}
    if family.ffn_layers is not None:
        whole = {kind: Block(half, FFN("none")) for kind, half in known.items()}
        whole[family.ffn_layers] = Block(Attention("none"), ffn)
    if unknown := sorted(set(kinds) - set(whole)):
        raise ParentError(
            f"layers of the types {unknown} of a {family.model_types[0]} are not searched yet; "
            f"allowed: {sorted(whole)}"
        )
    return tuple(whole[kind] for kind in kinds)


def layer_type(family: Any, block: Block) -> str | None:
    """Returns the type that a hybrid's layer has to have for a block; None for any type."""
    if block.attention.kind == "gqa":
        return "full_attention"
    if (mixer := family.mixer(block.attention)) is not None:
        return mixer.layer_type
    return family.ffn_layers if block.ffn.kind == "gated" else None
