"""Parameters, KV-cache bytes and FLOPs of a shape and a layout.

The conventions are the child's: a sublayer that exists owns its RMSNorm, one that was removed
owns nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from search_space.blocks import MIXERS
from search_space.shape import SublayerCounts
from search_space.weight_formats import weight_format

if TYPE_CHECKING:
    from search_space.blocks import FFN, Attention, Block
    from search_space.layout import Layout
    from search_space.shape import ModelShape


def sublayer_counts(shape: ModelShape) -> SublayerCounts:
    """Returns the parameters of the parent's sublayers: those it says, or those of a Llama."""
    queries = shape.heads * shape.head_dim
    biased, mlp_biased = int(shape.attention_bias), int(shape.mlp_bias)
    query_head = shape.head_dim * (2 * shape.hidden + biased)
    if shape.counts is not None:
        counts = shape.counts
        return counts if counts.query_head is not None else replace(counts, query_head=query_head)
    return SublayerCounts(
        attention=shape.hidden + 2 * shape.hidden * queries + biased * (queries + shape.hidden),
        kv_head=2 * shape.head_dim * (shape.hidden + biased),
        ffn=shape.hidden + mlp_biased * shape.hidden,
        channel=3 * shape.hidden + 2 * mlp_biased,
        attention_norm=shape.hidden,
        ffn_norm=shape.hidden,
        query_head=query_head,
    )


def query_heads(shape: ModelShape, attention: Attention) -> int:
    """Returns the query heads of a softmax attention; 0 for one without heads."""
    return 0 if attention.kind != "gqa" else attention.heads or shape.heads


def attention_parameters(shape: ModelShape, attention: Attention) -> int:
    """Returns the parameters of one attention sublayer, its norms included."""
    counts = sublayer_counts(shape)
    if attention.kind == "none":
        return 0
    if attention.kind == "linear":
        return counts.attention_norm + shape.hidden**2
    if attention.kind in MIXERS:
        return counts.mixer or 0
    removed = (shape.heads - query_heads(shape, attention)) * (counts.query_head or 0)
    return counts.attention - removed + (attention.kv_heads or 0) * counts.kv_head


def ffn_parameters(shape: ModelShape, ffn: FFN) -> int:
    """Returns the parameters of one FFN sublayer, its norms included."""
    counts = sublayer_counts(shape)
    if ffn.kind == "none":
        return 0
    if ffn.kind == "linear":
        return counts.ffn_norm + shape.hidden**2
    if ffn.kind == "moe":
        return (counts.moe or 0) + (ffn.experts or 0) * _expert_parameters(counts, ffn)
    return counts.ffn + (ffn.width or 0) * counts.channel


def _expert_parameters(counts: SublayerCounts, ffn: FFN) -> int:
    return (counts.expert or 0) + (ffn.width or 0) * (counts.expert_channel or 0)


def active_ffn_parameters(shape: ModelShape, ffn: FFN, tokens: float = 1) -> float:
    """Returns the parameters of an FFN that some tokens read: of a mixture, those of their experts.

    Each token reads `top_k` experts, taken here as any of them with the same chance; the router is
    read whole.

    Args:
        shape: The parent's sizes.
        ffn: The sublayer.
        tokens: Tokens that pass through it together.
    """
    whole = ffn_parameters(shape, ffn)
    if ffn.kind != "moe":
        return whole
    counts, experts = sublayer_counts(shape), ffn.experts or 1
    missed = (1 - (ffn.top_k or 0) / experts) ** tokens
    channels = (ffn.width or 0) * (counts.expert_channel or 0)
    return whole - experts * channels * missed


def active_parameters(layout: Layout) -> int:
    """Returns the parameters that one token of a layout is computed with."""
    shape = layout.shape
    body = sum(
        attention_parameters(shape, block.attention) + active_ffn_parameters(shape, block.ffn)
        for block in layout.blocks
    )
    return round(body) + fixed_parameters(shape)


def block_parameters(shape: ModelShape, block: Block) -> int:
    """Returns the parameters of one decoder layer."""
    return attention_parameters(shape, block.attention) + ffn_parameters(shape, block.ffn)


def attention_weight_bytes(shape: ModelShape, attention: Attention, usual: float) -> float:
    """Returns the bytes of one attention's parameters; see `block_weight_bytes`."""
    return attention_parameters(shape, attention) * bytes_of(attention.weights, usual)


def ffn_weight_bytes(shape: ModelShape, ffn: FFN, usual: float) -> float:
    """Returns the bytes of one FFN's parameters; see `block_weight_bytes`."""
    return ffn_parameters(shape, ffn) * bytes_of(ffn.weights, usual)


def block_weight_bytes(shape: ModelShape, block: Block, usual: float) -> float:
    """Returns the bytes of one decoder layer's parameters.

    A sublayer's norms and biases are counted in the format of its matrices, of which they are less
    than a thousandth.

    Args:
        shape: The parent's sizes.
        block: The block.
        usual: Bytes of a weight where a sublayer has no format of its own.
    """
    attention = attention_weight_bytes(shape, block.attention, usual)
    return attention + ffn_weight_bytes(shape, block.ffn, usual)


def bytes_of(weights: str | None, usual: float) -> float:
    """Returns the bytes of a weight of a format, or of one without; see `block_weight_bytes`."""
    return usual if weights is None else weight_format(weights).bytes


def fixed_parameters(shape: ModelShape) -> int:
    """Returns the parameters no layout changes: embedding, final norm and untied head."""
    tables = 1 if shape.tied else 2
    return tables * shape.vocab * shape.hidden + shape.hidden


def parameters(layout: Layout) -> int:
    """Returns the parameters of a layout, a tied head counted once."""
    body = sum(block_parameters(layout.shape, block) for block in layout.blocks)
    return body + fixed_parameters(layout.shape)


def weight_bytes(layout: Layout, usual: float) -> float:
    """Returns the bytes of a layout's parameters, a tied head counted once.

    Args:
        layout: The layout.
        usual: Bytes of a weight of what has no format of its own: embedding, head and the
            sublayers without one.
    """
    body = sum(block_weight_bytes(layout.shape, block, usual) for block in layout.blocks)
    return body + fixed_parameters(layout.shape) * usual


def block_kv_bytes_per_token(shape: ModelShape, block: Block, bytes_per_element: int = 2) -> int:
    """Returns the bytes one token of one sequence takes in the cache of one layer."""
    return 2 * (block.attention.kv_heads or 0) * shape.head_dim * bytes_per_element


def block_kv_bytes(shape: ModelShape, block: Block, tokens: int, bytes_per_element: int = 2) -> int:
    """Returns the bytes that a sequence of some tokens takes in the cache of one layer.

    Of an attention with a window, the cache holds no more than the tokens of the window; of a
    hybrid's mixer, its state, whose size does not depend on the tokens.
    """
    if block.attention.kind in MIXERS:
        return mixer_state(shape) * bytes_per_element
    window = block.attention.window
    cached = tokens if window is None else min(tokens, window)
    return cached * block_kv_bytes_per_token(shape, block, bytes_per_element)


def mixer_state(shape: ModelShape) -> int:
    """Returns how many numbers a mixer of the parent keeps of each sequence."""
    return (shape.counts.mixer_state or 0) if shape.counts is not None else 0


def kv_bytes_per_token(layout: Layout, bytes_per_element: int = 2) -> int:
    """Returns the bytes one token of one sequence adds to the KV cache, within all windows."""
    return sum(
        block_kv_bytes_per_token(layout.shape, block, bytes_per_element) for block in layout.blocks
    )


def kv_bytes(layout: Layout, tokens: int, bytes_per_element: int = 2) -> int:
    """Returns the bytes that a sequence of some tokens takes in the whole KV cache."""
    shape = layout.shape
    blocks = (shape.windowed(layer, block) for layer, block in enumerate(layout.blocks))
    return sum(block_kv_bytes(shape, block, tokens, bytes_per_element) for block in blocks)


def attended_pairs(tokens: int, window: int | None = None) -> int:
    """Returns the pairs of a token and one that it attends to, itself included, in a sequence.

    Args:
        tokens: The tokens of the sequence.
        window: How many tokens each attends to at most; all before it if not given.

    Example:
        >>> attended_pairs(4), attended_pairs(4, 2)
        (10, 7)
    """
    near = tokens if window is None else min(tokens, window)
    return near * (near + 1) // 2 + (tokens - near) * near


def attention_flops(shape: ModelShape, attention: Attention, *, tokens: int, pairs: int) -> int:
    """Returns the operations of one attention sublayer, a multiply-add counted as two.

    Args:
        shape: The parent's sizes.
        attention: The sublayer.
        tokens: Tokens that pass through it.
        pairs: Pairs of a token and one it attends to, itself included, over all sequences.
    """
    if attention.kind == "none":
        return 0
    if attention.kind == "linear":
        return 2 * tokens * shape.hidden**2
    counts, hidden = sublayer_counts(shape), shape.hidden
    if attention.kind in MIXERS:  # its state is decayed and read with every token
        return 2 * tokens * ((counts.mixer or 0) + 2 * mixer_state(shape))
    queries = query_heads(shape, attention) * shape.head_dim
    keys = (attention.kv_heads or 0) * shape.head_dim
    # Of queries and outputs, and of a gate between them where there is one; without biases.
    maps = (counts.query_head or 0) // (hidden * shape.head_dim)
    return 2 * tokens * hidden * (maps * queries + 2 * keys) + 4 * pairs * queries


def ffn_flops(shape: ModelShape, ffn: FFN, *, tokens: int) -> int:
    """Returns the operations of one FFN sublayer, a multiply-add counted as two."""
    if ffn.kind == "none":
        return 0
    if ffn.kind == "linear":
        return 2 * tokens * shape.hidden**2
    counts = sublayer_counts(shape)
    if ffn.kind == "moe":
        maps = (counts.expert_channel or 0) // shape.hidden
        router, channels = ffn.experts or 0, (ffn.top_k or 0) * (ffn.width or 0)
        return 2 * tokens * shape.hidden * (router + maps * channels)
    maps = counts.channel // shape.hidden  # biases are left out
    return 2 * tokens * shape.hidden * maps * (ffn.width or 0)


def block_flops(shape: ModelShape, block: Block, *, tokens: int, pairs: int) -> int:
    """Returns the operations of one decoder layer, its matrix products alone."""
    attention = attention_flops(shape, block.attention, tokens=tokens, pairs=pairs)
    return attention + ffn_flops(shape, block.ffn, tokens=tokens)


def head_flops(shape: ModelShape) -> int:
    """Returns the operations of the output head for one token."""
    return 2 * shape.hidden * shape.vocab
