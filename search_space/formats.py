"""Layouts to and from what serving engines read.

`nemotron-nas` configs hold a list of `block_configs`; transformers configs may hold a sparse
`per_layer_config`. vLLM, TensorRT-LLM, SGLang, mlx-lm and llama.cpp read the former, and all but
vLLM read FFN widths only as a multiplier, `ffn_mult`, which they round up to a multiple of 256.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from search_space.blocks import FFN, Attention, Block, reading_values
from search_space.layout import Layout
from search_space.shape import ModelShape

FFN_MULTIPLE = 256

# A config that overrides these in some layers has to name them once for all layers.
PER_LAYER_DEFAULTS = {"attention_linear": False, "mlp_linear": False, "sliding_window": None}

_ATTENTION_KEYS: dict[str, Any] = {
    "no_op": False,
    "replace_with_linear": False,
    "sparsify": None,
    "n_heads_in_group": None,
    "window_length": None,
    "num_sink_tokens": None,
    "use_prefill_window_in_sink_attention": False,
    "unshifted_sink": False,
}
_FFN_KEYS: dict[str, Any] = {
    "no_op": False,
    "replace_with_linear": False,
    "sparsify": None,
    "ffn_mult": None,
}
_READ_ATTENTION = ("no_op", "replace_with_linear", "n_heads_in_group", "num_key_value_heads")
_READ_PER_LAYER = (
    "num_key_value_heads",
    "num_attention_heads",
    "intermediate_size",
    "skip",
)
_READ_FFN = ("no_op", "replace_with_linear", "ffn_mult", "intermediate_size", "hidden_act")


def ffn_width(ffn_mult: float, hidden: int) -> int:
    """Returns the FFN width that engines read from a multiplier.

    Example:
        >>> ffn_width(2.625, 8192)
        14336
    """
    channels = int(2 * ffn_mult * hidden / 3)
    return -(-channels // FFN_MULTIPLE) * FFN_MULTIPLE


def ffn_mult(width: int, hidden: int) -> float:
    """Returns a multiplier that engines read as an FFN width.

    Raises:
        ValueError: No multiplier gives that width; the nearest ones that have one are named.

    Example:
        >>> ffn_mult(14336, 8192)
        2.625
    """
    if width < 1 or width % FFN_MULTIPLE:
        below = width // FFN_MULTIPLE * FFN_MULTIPLE
        nearest = [at for at in (below, below + FFN_MULTIPLE) if at > 0]
        raise ValueError(
            f"FFN width {width} has no ffn_mult, which engines round up to multiples of "
            f"{FFN_MULTIPLE}; the nearest with one: {' and '.join(map(str, nearest))}. Pad the "
            "FFN with zero channels to the larger, or write widths='intermediate_size', which "
            "vLLM reads"
        )
    return 3 * width / (2 * hidden)


def to_block_configs(layout: Layout, *, widths: str = "ffn_mult") -> list[dict[str, Any]]:
    """Returns the `block_configs` of a `nemotron-nas` config.

    Args:
        layout: The layout.
        widths: "ffn_mult", which every engine reads, or "intermediate_size", which only vLLM
            reads and which can hold any width.

    Raises:
        ValueError: A width cannot be reached by `ffn_mult`; layer and nearest widths are named.
            Or a layer has fewer query heads or a narrower window than the parent.
    """
    if widths not in ("ffn_mult", "intermediate_size"):
        raise ValueError(f"widths={widths!r}; allowed: 'ffn_mult', 'intermediate_size'")
    configs = []
    for layer, block in enumerate(layout.blocks):
        if block.attention.heads is not None or block.attention.window is not None:
            raise ValueError(
                f"layer {layer}: {block.attention.label} has fewer query heads or a narrower "
                "window than the parent, for which block_configs have no place"
            )
        if block.ffn.kind == "moe":
            raise ValueError(
                f"layer {layer}: {block.ffn.label} is a mixture of experts, for which "
                "block_configs have no place"
            )
        attention, ffn = dict(_ATTENTION_KEYS), dict(_FFN_KEYS)
        attention["no_op"] = block.attention.kind == "none"
        attention["replace_with_linear"] = block.attention.kind == "linear"
        if block.attention.kv_heads is not None:
            attention["n_heads_in_group"] = layout.shape.heads // block.attention.kv_heads
        ffn["no_op"] = block.ffn.kind == "none"
        ffn["replace_with_linear"] = block.ffn.kind == "linear"
        if block.ffn.width is not None and widths == "intermediate_size":
            # vLLM looks for ffn_mult first, so it must not be there, not even as null.
            del ffn["ffn_mult"]
            ffn["intermediate_size"] = block.ffn.width
        elif block.ffn.width is not None:
            try:
                ffn["ffn_mult"] = ffn_mult(block.ffn.width, layout.shape.hidden)
            except ValueError as error:
                raise ValueError(f"layer {layer}: {error}") from None
        configs.append({"attention": attention, "ffn": ffn})
    return configs


@reading_values("block_configs")
def from_block_configs(shape: ModelShape, block_configs: Sequence[Mapping[str, Any]]) -> Layout:
    """Returns the layout of the `block_configs` of a `nemotron-nas` config.

    Args:
        shape: The parent's sizes.
        block_configs: One {"attention": ..., "ffn": ...} per layer.

    Raises:
        ValueError: A block has what a layout cannot hold (windows, sinks, sparsity,
            unknown keys), names no size, or its sizes do not fit the shape.
    """
    blocks = []
    for layer, config in enumerate(block_configs):
        try:
            blocks.append(_block_of(shape, config))
        except ValueError as error:
            raise ValueError(f"block_configs[{layer}]: {error}") from None
    return Layout(shape, tuple(blocks))


def to_per_layer_config(layout: Layout) -> dict[str, dict[str, Any]]:
    """Returns the sparse `per_layer_config` of a transformers config.

    A layer that equals the parent's is left out. Linear sublayers are `attention_linear` and
    `mlp_linear`, names of our own. The config also needs a value for all layers of these and of
    `sliding_window` (`PER_LAYER_DEFAULTS`).

    Example:
        >>> shape = ModelShape(layers=12, hidden=8, heads=2, head_dim=4, kv_heads=2,
        ...                    ffn_width=16, vocab=32)
        >>> to_per_layer_config(Layout.parent(shape).replace(5, Block.from_label("none+gated8")))
        {'5': {'intermediate_size': 8, 'skip': ['attention']}}
    """
    own, changes = layout.shape.usual_block, {}
    for layer, block in enumerate(layout.blocks):
        values: dict[str, Any] = {}
        if block.attention.kind == "linear":
            values["attention_linear"] = True
        elif block.attention.kv_heads not in (None, own.attention.kv_heads):
            values["num_key_value_heads"] = block.attention.kv_heads
        if block.attention.heads is not None:
            values["num_attention_heads"] = block.attention.heads
        if block.attention.window is not None:
            values["sliding_window"] = block.attention.window
        if block.ffn.kind == "linear":
            values["mlp_linear"] = True
        elif block.ffn.width not in (None, own.ffn.width):
            values["intermediate_size"] = block.ffn.width
        halves = (("attention", block.attention.kind), ("mlp", block.ffn.kind))
        skip = [name for name, kind in halves if kind == "none"]
        if skip:
            values["skip"] = skip
        if values:
            changes[layer] = values
    digits = len(str(max(changes, default=0)))
    return {str(layer).zfill(digits): values for layer, values in changes.items()}


@reading_values("a per_layer_config")
def from_per_layer_config(
    shape: ModelShape, per_layer_config: Mapping[str | int, Mapping[str, Any]]
) -> Layout:
    """Returns the layout of a transformers `per_layer_config`.

    Args:
        shape: The sizes that the config names for all layers.
        per_layer_config: What differs, by layer.

    Raises:
        ValueError: A layer does not exist, is named twice, or differs in what a layout cannot
            hold.
    """
    blocks, seen = [shape.usual_block] * shape.layers, set()
    for key, values in per_layer_config.items():
        layer = int(key) if re.fullmatch(r"[0-9]{1,9}", str(key)) else -1
        if not 0 <= layer < shape.layers or layer in seen:
            raise ValueError(
                f"per_layer_config names layer {key!r}; allowed: each of 0 to "
                f"{shape.layers - 1} once"
            )
        seen.add(layer)
        try:
            blocks[layer] = _overridden(shape, values)
            shape.check_coherent(blocks[layer])
        except ValueError as error:
            raise ValueError(f"per_layer_config[{layer}]: {error}") from None
    return Layout(shape, tuple(blocks))


@reading_values("the config of a model")
def layout_from_json(
    config: Mapping[str, Any], *, kv_heads: int | None = None, ffn_width: int | None = None
) -> Layout:
    """Returns the layout of a whole model config, read from its config.json.

    Args:
        config: The config of a `nemotron-nas`, `deci` or `llama` model, with or without
            `per_layer_config`, or of a child of this library.
        kv_heads: The parent's KV heads, where the config does not say; the largest if not given.
        ffn_width: The parent's FFN width, likewise.

    Raises:
        ValueError: The config lacks a size, or its layers are not those of a Llama.
    """
    for key, read in _READERS.items():
        if config.get(key) is not None:
            blocks = read(config)
            break
    else:
        _require(config, "num_key_value_heads", "intermediate_size")
        blocks = None
    heads = [block.attention.kv_heads or 0 for block in blocks or ()]
    widths = [block.ffn.width or 0 for block in blocks or ()]
    shape = _shape(
        config,
        _first(kv_heads, config.get("num_key_value_heads"), max(heads, default=0) or None),
        _first(ffn_width, config.get("intermediate_size"), max(widths, default=0) or None),
    )
    if blocks is not None:
        return Layout(shape, tuple(blocks))
    return from_per_layer_config(shape, config.get("per_layer_config") or {})


def _from_nas(config: Mapping[str, Any]) -> list[Block]:
    # Sizes come from the blocks themselves, so that any KV heads of the shape will do here.
    blocks = config["block_configs"]
    shape = replace(_shape(config, 1, 1), layers=len(blocks))
    return list(from_block_configs(shape, blocks).blocks)


def _from_kv_heads(config: Mapping[str, Any]) -> list[Block]:
    _require(config, "intermediate_size")
    ffn = FFN("gated", config["intermediate_size"])
    return [Block(Attention("gqa", n), ffn) for n in config["num_key_value_heads_per_layer"]]


_READERS: dict[str, Callable[[Mapping[str, Any]], list[Block]]] = {
    "block_configs": _from_nas,
    "num_key_value_heads_per_layer": _from_kv_heads,
    "blocks": lambda config: [Block.from_label(label) for label in config["blocks"]],
}


def _require(config: Mapping[str, Any], *names: str) -> None:
    missing = [name for name in names if config.get(name) is None]
    if missing:
        raise ValueError(
            f"the config lacks {', '.join(missing)}; pass the config.json of a Llama, "
            "nemotron-nas or deci model"
        )


def _first(*values: Any) -> Any:
    """Returns the first value that is given, whatever it is: a size of 0 is wrong, not absent."""
    return next((value for value in values if value is not None), None)


def _shape(config: Mapping[str, Any], kv_heads: int | None, ffn_width: int | None) -> ModelShape:
    _require(config, "num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    return ModelShape(
        layers=config["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        head_dim=_first(config.get("head_dim"), hidden // max(heads, 1)),
        kv_heads=_first(kv_heads, heads),
        ffn_width=_first(ffn_width, hidden),
        vocab=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings")),
        attention_bias=bool(config.get("attention_bias")),
        mlp_bias=bool(config.get("mlp_bias")),
    )


def _block_of(shape: ModelShape, config: Mapping[str, Any]) -> Block:
    _refuse_unknown("block", config, ("attention", "ffn"))
    _require(config, "attention", "ffn")
    attention, ffn = config["attention"], config["ffn"]
    _refuse_unknown("attention", attention, _READ_ATTENTION)
    _refuse_unknown("ffn", ffn, _READ_FFN)
    if (ffn.get("hidden_act") or "silu") != "silu":
        raise ValueError(f"ffn: hidden_act={ffn['hidden_act']!r}; allowed: 'silu'")
    return Block(_attention_of(shape, attention), _ffn_of(shape, ffn))


def _refuse_unknown(owner: str, values: Mapping[str, Any], read: tuple[str, ...]) -> None:
    """Raises ValueError for keys that change the model and that a layout cannot hold."""
    unknown = {key: value for key, value in values.items() if key not in read and value}
    if unknown:
        raise ValueError(f"{owner}: a layout has no {unknown}; allowed: {list(read)}")


def _attention_of(shape: ModelShape, values: Mapping[str, Any]) -> Attention:
    if values.get("no_op"):
        return Attention("none")
    if values.get("replace_with_linear"):
        return Attention("linear")
    if values.get("num_key_value_heads"):
        return Attention("gqa", values["num_key_value_heads"])
    group = values.get("n_heads_in_group")
    if not isinstance(group, int) or group < 1 or shape.heads % group:
        divisors = [n for n in range(1, shape.heads + 1) if shape.heads % n == 0]
        raise ValueError(f"attention: n_heads_in_group={group!r}; allowed: {divisors}")
    return Attention("gqa", shape.heads // group)


def _ffn_of(shape: ModelShape, values: Mapping[str, Any]) -> FFN:
    if values.get("no_op"):
        return FFN("none")
    if values.get("replace_with_linear"):
        return FFN("linear")
    mult = values.get("ffn_mult")
    if mult is None:
        width = values.get("intermediate_size")
        if width is None:
            raise ValueError("ffn: neither ffn_mult nor intermediate_size; give one of them")
        return FFN("gated", width)
    if not isinstance(mult, int | float) or not 0 < mult < float("inf"):
        raise ValueError(f"ffn: ffn_mult={mult!r}; allowed: finite numbers above 0")
    return FFN("gated", ffn_width(mult, shape.hidden))


def _overridden(shape: ModelShape, values: Mapping[str, Any]) -> Block:
    allowed = (*_READ_PER_LAYER, *PER_LAYER_DEFAULTS)
    _refuse_unknown("layer", values, allowed)
    skip = values.get("skip") or []
    if isinstance(skip, str) or not set(skip) <= {"attention", "mlp"}:
        raise ValueError(f"skip={skip!r}; allowed: a list of 'attention' and 'mlp'")
    attention = Attention(
        "gqa",
        values.get("num_key_value_heads", shape.kv_heads),
        heads=values.get("num_attention_heads"),
        window=values.get("sliding_window"),
    )
    ffn = FFN("gated", values.get("intermediate_size", shape.ffn_width))
    if values.get("attention_linear"):
        attention = Attention("linear")
    if values.get("mlp_linear"):
        ffn = FFN("linear")
    return Block(
        Attention("none") if "attention" in skip else attention,
        FFN("none") if "mlp" in skip else ffn,
    )
