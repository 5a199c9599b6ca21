"""Family: what differs from one model family to the next, as names; the code is the stock one."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from puzzle.models.family_sizes import family_shape
from puzzle.models.logits import LogitScale
from puzzle.models.masks import attention_mask
from puzzle.models.rotary_tables import Rope, Tables
from puzzle.models.slots import ATTENTION, GATE, GATED, KEY, QUERY, UP, VALUE, Experts, Mixer, Slot
from search_space import FFN, Attention, ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model family: names and sizes as data, behaviour from the stock transformers modules.

    Args:
        model_types: The `model_type` values of the configs it understands; the first is that of
            the stock classes.
        package: Their package in `transformers.models`.
        classes: The prefix of the stock classes: "Llama" of `LlamaDecoderLayer`.
        text_model: The stock class of the decoder without its head, if not prefix + "Model".
        layer_class: The stock class of a decoder layer, without the prefix.
        attention: Where the attention of a layer is.
        ffn: Where its FFN is.
        mixers: What its layers of some types have in place of an attention.
        experts: The mixture of experts that all its layers have in place of an FFN, or some.
        ffn_layers: The type of layers that are an FFN and nothing else, in families whose layers
            are all one half only.
        query_maps: Rows of the map to queries for each of their channels: 2 where a gate of the
            attention's output is among them.
        activations: The activations of the FFN that are known to be right, where configs say it.
        residual_multiplier: Config attribute by which what a half returns is multiplied.
        embedding_multiplier: Config attribute by which embedded tokens are multiplied.
        root_embedding: Whether embedded tokens are multiplied by the root of the hidden size.
        logits_divisor: Config attribute by which logits are divided.
        logits_cap: Config attribute of the bound that logits are squashed to.
        ropes: Whether attentions have rotary tables.
        ropes_by_type: Whether layers of different types have different rotary tables.
        attention_implementation: The implementation that computes all that the family's attention
            does: "sdpa", or "eager" where torch's own would drop something.
        layer_prefix: Tensor name prefix of layer i, with `{}` for i.
        embedding: Tensor name of the input embedding.
        norm: Tensor name of the final norm.
        norm_eps: Config attribute of what norms add to the mean square.
        settled: Config attributes that have these values in children, whose widths are given.
        head: Tensor name of an untied output head.

    Example:
        >>> Family(model_types=("qwen3",), package="qwen3", classes="Qwen3").attention.out
        'o_proj'
    """

    model_types: tuple[str, ...]
    package: str
    classes: str
    text_model: str | None = None
    layer_class: str = "DecoderLayer"
    attention: Slot = ATTENTION
    ffn: Slot = GATED
    mixers: tuple[Mixer, ...] = ()
    experts: Experts | None = None
    ffn_layers: str | None = None
    query_maps: int = 1
    activations: tuple[str, ...] = ("silu",)
    residual_multiplier: str | None = None
    embedding_multiplier: str | None = None
    root_embedding: bool = False
    logits_divisor: str | None = None
    logits_cap: str | None = None
    ropes: bool = True
    ropes_by_type: bool = False
    attention_implementation: str = "sdpa"
    layer_prefix: str = "model.layers.{}."
    embedding: str = "model.embed_tokens.weight"
    norm: str = "model.norm.weight"
    norm_eps: str = "rms_norm_eps"
    settled: tuple[tuple[str, Any], ...] = ()
    head: str = "lm_head.weight"

    @property
    def modeling(self) -> ModuleType:
        """The module of transformers that holds the stock classes."""
        return importlib.import_module(
            f"transformers.models.{self.package}.modeling_{self.package}"
        )

    def stock(self, what: str) -> Any:
        """Returns a stock class: `what` is "DecoderLayer", "Attention", "Model" and the like."""
        if what == "Model" and self.text_model:
            return getattr(self.modeling, self.text_model)
        # Beside a vision tower, some classes of the decoder say that they are of text.
        name = self.classes + what
        return getattr(self.modeling, name, None) or getattr(
            self.modeling, f"{self.classes}Text{what}"
        )

    def shape(self, config: Any) -> ModelShape:
        """Returns the sizes of the model, its parameters counted from the stock modules.

        Raises:
            ParentError: The config is of a variant of the family that is not covered.
        """
        return family_shape(self, config)

    def mixer(self, attention: Attention) -> Mixer | None:
        """Returns the mixer that an attention is; None if it is none."""
        return next((mixer for mixer in self.mixers if mixer.kind == attention.kind), None)

    def mixing(self, attention: Attention) -> Slot:
        """Returns where what mixes the tokens of a layer is: its attention or its mixer."""
        mixer = self.mixer(attention)
        return self.attention if mixer is None else mixer.slot

    def layer(self, config: Any, index: int) -> nn.Module:
        """Returns an unloaded decoder layer of the stock class."""
        layer: nn.Module = self.stock(self.layer_class)(config, index)
        return layer

    def final_norm(self, config: Any) -> nn.Module:
        """Returns an unloaded final norm of the stock class."""
        norm: nn.Module = self.stock("RMSNorm")(
            config.hidden_size, eps=getattr(config, self.norm_eps)
        )
        return norm

    def norm_offset(self, config: Any) -> int:
        """Returns what norms add to their weights to multiply by: 0, or 1 in some families."""
        norm: Any = self.final_norm(config).float()
        with torch.no_grad():
            return round(float(norm(torch.ones_like(norm.weight.zero_())).mean()))

    def layer_config(self, config: Any, half: Attention | FFN) -> Any:
        """Returns a config whose layers have the sizes of a half."""
        sizes = copy.copy(config)
        if isinstance(half, Attention) and half.kv_heads is not None:
            sizes.num_key_value_heads = half.kv_heads
            if half.heads is not None:
                # Where the config does not say it, it would follow from the number of heads.
                if getattr(config, "head_dim", None) is None:
                    sizes.head_dim = config.hidden_size // config.num_attention_heads
                sizes.num_attention_heads = half.heads
        if isinstance(half, FFN) and half.width is not None:
            for name, value in self._ffn_sizes(half):
                setattr(sizes, name, list(value) if isinstance(value, tuple) else value)
        return sizes

    def _ffn_sizes(self, ffn: FFN) -> tuple[tuple[str, Any], ...]:
        """Returns the config attributes of a layer with an FFN or a mixture of experts."""
        experts = self.experts
        if experts is None or ffn.kind != "moe":
            dense = () if experts is None else experts.dense or ()
            return (("intermediate_size", ffn.width), *self.settled, *dense)
        sizes = (
            (experts.width, ffn.width),
            (experts.count, ffn.experts),
            (experts.top_k, ffn.top_k),
        )
        return (*sizes, *experts.sparse)

    def row_counts(self, shape: ModelShape, half: Attention | FFN) -> dict[str, int]:
        """Returns how many rows of each kind the maps of half a layer have."""
        if isinstance(half, FFN):
            return dict.fromkeys((GATE, UP), half.width or 0)
        heads, kv_heads = half.heads or shape.heads, half.kv_heads or 0
        keys = kv_heads * shape.head_dim
        return {QUERY: heads * shape.head_dim * self.query_maps, KEY: keys, VALUE: keys}

    def residual_scale(self, config: Any) -> float:
        """Returns what the output of a half is multiplied by before it is added."""
        return float(getattr(config, self.residual_multiplier)) if self.residual_multiplier else 1.0

    def scale_embedding(self, config: Any, x_BLD: torch.Tensor) -> torch.Tensor:
        """Returns the residual stream that enters layer 0, from rows of the embedding."""
        if self.root_embedding:
            return x_BLD * torch.tensor(config.hidden_size**0.5).to(x_BLD)
        if self.embedding_multiplier:
            return x_BLD * getattr(config, self.embedding_multiplier)
        return x_BLD

    def after_head(self, config: Any) -> tuple[nn.Module, ...]:
        """Returns what turns the output head's products into logits: nothing in most families."""
        divisor = getattr(config, self.logits_divisor) if self.logits_divisor else None
        cap = getattr(config, self.logits_cap) if self.logits_cap else None
        return () if divisor is None and cap is None else (LogitScale(divisor, cap),)

    def rope(self, config: Any, length: int) -> Rope:
        """Returns the rotary cosines and sines for positions 0 to length - 1."""
        if not self.ropes:
            return {}
        embedding, positions = self.stock("RotaryEmbedding")(config), torch.arange(length)[None]
        x = torch.zeros(1)
        if self.ropes_by_type:
            return {kind: embedding(x, positions, kind) for kind in sorted(set(config.layer_types))}
        tables: Tables = embedding(x, positions)
        return tables

    def inputs(
        self, layer: nn.Module, x_BLD: torch.Tensor, rope: Rope, *, window: int | None = None
    ) -> dict[str, Any]:
        """Returns what a decoder layer or its attention takes beside the residual stream.

        Args:
            layer: A decoder layer, stock or a child's, perhaps without an attention.
            x_BLD: The residual stream.
            rope: The tables of `rope`, at least as long as the stream.
            window: Tokens that each attends to at most; by default as many as in the layer.
        """
        attention: Any = _half(layer, self.attention)
        config = getattr(attention, "config", None)
        layer_idx = getattr(attention, "layer_idx", 0)
        kinds = getattr(config, "layer_types", None)
        kind = kinds[layer_idx] if kinds else None
        # A window of a variant's own is never wider than that of the layer.
        window = window or getattr(layer, "window", None) or self.window(config, layer_idx)
        # The mask of a mixer would be of padding.
        mask = (
            None
            if self._mixer_of(layer)
            else attention_mask(x_BLD, window, self.attention_implementation)
        )
        if not rope:
            return {"attention_mask": mask}
        if isinstance(rope, Mapping):  # any will do for a layer that has no attention
            rope = rope.get(str(kind)) or next(iter(rope.values()))
        tables = tuple(table.to(x_BLD.dtype) for table in rope)
        return {"attention_mask": mask, "position_embeddings": tables}

    def _mixer_of(self, layer: nn.Module) -> Mixer | None:
        """Returns the mixer that a layer, stock or a child's, has."""
        return next((mixer for mixer in self.mixers if _half(layer, mixer.slot)), None)

    def window(self, config: Any, index: int) -> int | None:
        """Returns how many tokens a stock layer attends to at most; None if to all."""
        window: int | None = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None)
        return None if kinds and kinds[index] != "sliding_attention" else window

    def run(self, layer: nn.Module, x_BLD: torch.Tensor, rope: Rope) -> torch.Tensor:
        """Returns the residual stream after a decoder layer, causal, without a cache."""
        y_BLD: torch.Tensor = layer(x_BLD, **self.inputs(layer, x_BLD, rope))
        return y_BLD

    def normed(self, layer: nn.Module, norm: str | None, x_BLD: torch.Tensor) -> torch.Tensor:
        """Returns the stream after one of the layer's norms, or as it is."""
        return x_BLD if norm is None else getattr(layer, norm)(x_BLD)

    def attention_features(
        self,
        layer: nn.Module,
        x_BLD: torch.Tensor,
        rope: Rope,
        *,
        attention: nn.Module | None = None,
        window: int | None = None,
    ) -> torch.Tensor:
        """Returns what enters the last map of a layer's attention, (B, L, heads * head_dim).

        Of a mixer in its place, what enters the mixer's.

        Args:
            layer: The layer.
            x_BLD: The residual stream entering it.
            rope: As for `inputs`.
            attention: Another attention that takes the place of the layer's own.
            window: As for `inputs`.
        """
        mixer = None if attention is not None else self._mixer_of(layer)
        slot = self.attention if mixer is None else mixer.slot
        inputs = {} if mixer else self.inputs(layer, x_BLD, rope, window=window)
        attention = attention or getattr(layer, slot.module)
        h_BLD = self.normed(layer, slot.before, x_BLD)
        with _replaced(attention, slot.out, nn.Identity()):
            features = attention(hidden_states=h_BLD, **inputs)
        out_BLF: torch.Tensor = features if mixer else features[0]
        return out_BLF

    def ffn_features(self, layer: nn.Module, x_BLD: torch.Tensor) -> torch.Tensor:
        """Returns what enters the last map of a layer's FFN, (B, L, channels)."""
        ffn = getattr(layer, self.ffn.module)
        h_BLD = self.normed(layer, self.ffn.before, x_BLD)
        with _replaced(ffn, self.ffn.out, nn.Identity()):
            features: torch.Tensor = ffn(h_BLD)
            return features

    def attention_update(
        self, layer: nn.Module, x_BLD: torch.Tensor, rope: Rope, config: Any
    ) -> torch.Tensor:
        """Returns what the attention of a layer, stock or a child's, adds to the stream."""
        mixer = self._mixer_of(layer)
        slot = self.attention if mixer is None else mixer.slot
        attention: Any = _half(layer, slot)
        if attention is None:
            return self._linear_update(layer, slot, x_BLD, "attention_kind")
        features = self.attention_features(layer, x_BLD, rope)
        return self.added(layer, slot, getattr(attention, slot.out)(features), config)

    def ffn_update(self, layer: nn.Module, x_BLD: torch.Tensor, config: Any) -> torch.Tensor:
        """Returns what the FFN of a layer, stock or a child's, adds to the stream."""
        ffn: Any = _half(layer, self.ffn) or self.mixture(layer)
        if ffn is None:
            return self._linear_update(layer, self.ffn, x_BLD, "ffn_kind")
        out_BLD = returned(ffn(self.normed(layer, self.ffn.before, x_BLD)))
        return self.added(layer, self.ffn, out_BLD, config)

    def mixture(self, layer: nn.Module) -> nn.Module | None:
        """Returns the mixture of experts of a layer, stock or a child's; None without one."""
        half: Any = getattr(layer, self.ffn.module, None)
        has = self.experts is not None and hasattr(half, self.experts.experts)
        return half if has else None

    def _linear_update(
        self, layer: nn.Module, slot: Slot, x_BLD: torch.Tensor, half: str
    ) -> torch.Tensor:
        """Returns what a linear map in place of a half adds, or nothing where a child has none."""
        if getattr(layer, half, None) != "linear":
            return torch.zeros_like(x_BLD)
        linear: Any = getattr(layer, slot.module)
        update: torch.Tensor = linear(self.normed(layer, slot.before, x_BLD))
        return update

    def added(
        self, layer: nn.Module, slot: Slot, out_BLD: torch.Tensor, config: Any
    ) -> torch.Tensor:
        """Returns what a half adds to the residual stream, from what its last map returns."""
        update, scale = self.normed(layer, slot.after, out_BLD), self.residual_scale(config)
        return update if scale == 1.0 else update * scale


def returned(update: Any) -> torch.Tensor:
    """Returns what an FFN returns; some mixtures of experts return their gates beside it."""
    out_BLD: torch.Tensor = update[0] if isinstance(update, tuple) else update
    return out_BLD


@contextmanager
def _replaced(module: nn.Module, name: str, other: nn.Module) -> Iterator[None]:
    """Puts another module in place of a submodule for as long as the context lasts."""
    own = module._modules[name]
    module._modules[name] = other
    try:
        yield
    finally:
        module._modules[name] = own


def _half(layer: nn.Module, slot: Slot) -> nn.Module | None:
    """Returns the half of a layer, stock or a child's, that is at a slot; None for another one."""
    half: Any = getattr(layer, slot.module, None)
    return half if hasattr(half, slot.out) else None
