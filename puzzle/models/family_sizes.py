"""The sizes of a family's model, its parameters counted from the stock modules."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from puzzle.errors import ParentError
from puzzle.models.hybrid_layers import layer_blocks, layer_types
from puzzle.models.slots import KEY, VALUE, Slot
from search_space import FFN, Attention, ModelShape, SublayerCounts
from search_space.counting import sublayer_counts

if TYPE_CHECKING:
    from puzzle.models.family import Family

ACTIVATIONS = ("hidden_act", "hidden_activation", "mlp_hidden_act")


def family_shape(family: Family, config: Any) -> ModelShape:
    """Returns the sizes of the model of a config.

    Raises:
        ParentError: The config is of a variant of the family that is not covered.
    """
    _require_activation(family, config)
    heads, head_dim = config.num_attention_heads, getattr(config, "head_dim", None)
    kv_heads = heads if config.num_key_value_heads is None else config.num_key_value_heads
    blocks = layer_blocks(family, config, kv_heads, config.intermediate_size)
    layer, ffn = _with_halves(family, config, blocks)
    width = config.intermediate_size
    if ffn is not None:
        width = getattr(getattr(ffn, family.ffn.module), family.ffn.out).in_features
    windows = tuple(family.window(config, index) for index in range(config.num_hidden_layers))
    shape = ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        head_dim=config.hidden_size // heads if head_dim is None else head_dim,
        kv_heads=kv_heads,
        ffn_width=width,
        vocab=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        blocks=layer_blocks(family, config, kv_heads, width),
        windows=windows if any(windows) else None,
    )
    plain = replace(
        shape,
        attention_bias=_biased(layer, family.attention),
        mlp_bias=ffn is not None and _biased(ffn, family.ffn),
    )
    counts = _counts(family, config, shape)
    return plain if sublayer_counts(plain) == counts else replace(plain, counts=counts)


def require_known_names(family: Family, config: Any) -> None:
    """Raises ParentError for an activation or a rotary embedding that is not known, by its name."""
    _require_activation(family, config)
    ropes = getattr(config, "rope_parameters", None) or {}
    tables = [ropes, *(value for value in ropes.values() if isinstance(value, dict))]
    known = {"default", *ROPE_INIT_FUNCTIONS}
    for kind in [table["rope_type"] for table in tables if "rope_type" in table]:
        if kind not in known:
            raise ParentError(f"rope_type={kind!r}; allowed: {', '.join(sorted(known))}")


def _require_activation(family: Family, config: Any) -> None:
    said = [getattr(config, name, None) for name in ACTIVATIONS]
    activation = next((name for name in said if name is not None), None)
    # Where no config says it, the class has one of its own.
    if activation is not None and activation not in family.activations:
        raise ParentError(
            f"hidden_act={activation!r}; allowed for {family.model_types[0]}: "
            + ", ".join(map(repr, family.activations))
        )


def _with_halves(family: Family, config: Any, blocks: Any) -> tuple[Any, Any]:
    """Returns a layer with an attention and one with an FFN, without memory for their weights.

    Where every layer has a mixture of experts, there is no layer with an FFN.
    """
    rows = [(block.attention.kind, block.ffn.kind) for block in blocks or ()]
    attentions = [index for index, (kind, _) in enumerate(rows) if kind == "gqa"]
    ffns = [index for index, (_, kind) in enumerate(rows) if kind in ("gated", "moe")]
    if rows and not (attentions and ffns):
        missing = "FFN" if attentions else "attention"
        raise ParentError(
            f"no layer of this {family.model_types[0]} has an {missing}; allowed: models some of "
            f"whose layers have one"
        )
    gated = [index for index in ffns if rows[index][1] == "gated"]
    with torch.device("meta"):
        first = attentions[0] if rows else 0
        layer = family.layer(config, first)
        if rows and not gated:
            return layer, None
        return layer, layer if not rows or first in gated else family.layer(config, gated[0])


def _counts(family: Family, config: Any, shape: ModelShape) -> SublayerCounts:
    """Returns the parameters of a layer's halves, counted at two sizes."""
    blocks = shape.blocks
    one = family.layer_config(config, Attention("gqa", 1))
    twice = family.layer_config(config, Attention("gqa", shape.kv_heads, heads=2 * shape.heads))
    layer, with_ffn = _with_halves(family, config, blocks)
    thin, headed = (_with_halves(family, sizes, blocks)[0] for sizes in (one, twice))
    attention, least = (_size(m, family.attention.names) for m in (layer, thin))
    if shape.kv_heads > 1:
        head = (attention - least) // (shape.kv_heads - 1)
    else:
        tensors = getattr(layer, family.attention.module).state_dict()
        sizes = family.row_counts(shape, Attention("gqa", 1))
        parts = [family.attention.part(tensors, part, sizes) for part in (KEY, VALUE)]
        head = sum(tensor.numel() for part in parts for tensor in part.values())
    return SublayerCounts(
        attention=attention - head * shape.kv_heads,
        kv_head=head,
        attention_norm=_size(layer, family.attention.norms_before),
        ffn_norm=_size(with_ffn or layer, family.ffn.norms_before),
        query_head=(_size(headed, family.attention.names) - attention) // shape.heads,
        **_ffn_counts(family, config, shape),
        **_expert_counts(family, config, shape),
        **_mixer_counts(family, config),
    )


def _ffn_counts(family: Family, config: Any, shape: ModelShape) -> dict[str, int]:
    """Returns the parameters of an FFN; those of a Llama where no layer has one."""
    wider = family.layer_config(config, FFN("gated", shape.ffn_width + 1))
    with_ffn = _with_halves(family, config, shape.blocks)[1]
    if with_ffn is None:
        return {"ffn": shape.hidden, "channel": 3 * shape.hidden}
    wide = _with_halves(family, wider, shape.blocks)[1]
    ffn, most = (_size(m, family.ffn.names) for m in (with_ffn, wide))
    return {"ffn": ffn - (most - ffn) * shape.ffn_width, "channel": most - ffn}


def _expert_counts(family: Family, config: Any, shape: ModelShape) -> dict[str, int]:
    """Returns the parameters of a mixture of experts, if there is one."""
    own = next((block.ffn for block in shape.parent_blocks if block.ffn.kind == "moe"), None)
    if own is None:
        return {}
    number, width = own.experts or 1, own.width or 1

    def size(experts: int, channels: int) -> int:
        ffn = FFN("moe", channels, experts=experts, top_k=1)
        with torch.device("meta"):
            return _size(family.layer(family.layer_config(config, ffn), 0), family.ffn.names)

    own_size = size(number, width)
    channel = (size(number, width + 1) - own_size) // number
    expert = size(number + 1, width) - own_size
    return {
        "moe": own_size - number * expert,
        "expert": expert - width * channel,
        "expert_channel": channel,
    }


def _mixer_counts(family: Family, config: Any) -> dict[str, int]:
    """Returns the parameters and the state of a hybrid's mixer, if there is one."""
    kinds = layer_types(config) or ()
    for mixer in family.mixers:
        if mixer.layer_type in kinds:
            with torch.device("meta"):
                layer = family.layer(config, kinds.index(mixer.layer_type))
            return {"mixer": _size(layer, mixer.slot.names), "mixer_state": mixer.state(config)}
    return {}


def _biased(layer: nn.Module, slot: Slot) -> bool:
    return getattr(getattr(layer, slot.module), slot.out).bias is not None


def _size(layer: nn.Module, names: tuple[str, ...]) -> int:
    parts = [getattr(layer, name) for name in names]
    return sum(parameter.numel() for part in parts for parameter in part.parameters())
