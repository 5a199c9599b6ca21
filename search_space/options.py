"""LayerOptions: what a layer may become, as kinds, KV heads and shares of the width."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from search_space.blocks import FFN, Attention, check_keys, reading_values, size_of
from search_space.shape import ModelShape
from search_space.weight_formats import weight_format

WIDTH_MULTIPLE = 32
FFN_SHARES = (0.87, 0.75, 0.625, 0.5, 0.375, 0.25, 0.2, 0.1)

GROUP_SHARES = (0.75, 0.5, 0.25)

_ATTENTION_KINDS = ("gqa", "groups", "linear", "none")
_USUAL_ATTENTION = ("gqa", "linear", "none")
_FFN_KINDS = ("gated", "linear", "none")
LayerKey = int | str | range
_Half = TypeVar("_Half", Attention, FFN)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOptions:
    """The alternatives to a parent's sublayers; the parent's own always come on top.

    Args:
        attention: Kinds of attention: "gqa" stands for fewer KV heads, into which the parent's are
            merged, and "groups" for fewer KV heads and none of the removed ones' query heads.
        kv_heads: KV heads that "gqa" may have; by default every divisor of the parent's.
        groups: KV heads that "groups" may have; by default 75, 50 and 25 % of the parent's, and 1.
        windows: Tokens that an attention with all of the parent's heads may be limited to.
        ffn: Kinds of FFN: "gated" stands for narrower ones, and where the parent has a mixture of
            experts, for one of fewer experts.
        ffn_shares: Widths of "gated", or numbers of experts, as shares of the parent's.
        top_k_shares: Experts of one token, as shares of the parent's, where it has a mixture.
        expert_shares: Widths of each expert, as shares of the parent's, where it has a mixture.
        weights: Formats, of `search_space.WEIGHT_FORMATS`, that every softmax attention and gated
            FFN may have, too, the parent's own included, where their rows fit.
        multiple: Widths are rounded to the nearest multiple of this, and are at least one of it;
            by default 32 (1 in FFNs of less than 128 channels).

    Raises:
        ValueError: A kind is unknown, or a number out of range.

    Example:
        >>> shape = ModelShape(layers=2, hidden=8, heads=4, head_dim=4, kv_heads=4,
        ...                    ffn_width=1024, vocab=32)
        >>> options = LayerOptions(ffn=["gated", "none"], ffn_shares=[0.5, 0.1], multiple=256)
        >>> [choice.label for choice in options.ffns(shape)]
        ['gated512', 'gated256', 'none']
        >>> [choice.label for choice in options.attentions(shape)]
        ['gqa2', 'gqa1', 'linear', 'none']
        >>> options = LayerOptions(attention="groups", windows=[1024])
        >>> [choice.label for choice in options.attentions(shape)]
        ['gqa4w1024', 'gqa3h3', 'gqa2h2', 'gqa1h1']
        >>> options = LayerOptions(ffn=(), weights=["q8_0", "q4_0"])
        >>> [choice.label for choice in options.ffns(replace(shape, hidden=32))]
        ['gated1024@q8_0', 'gated1024@q4_0']
    """

    attention: tuple[str, ...] = _USUAL_ATTENTION
    kv_heads: tuple[int, ...] | None = None
    groups: tuple[int, ...] | None = None
    windows: tuple[int, ...] = ()
    ffn: tuple[str, ...] = _FFN_KINDS
    ffn_shares: tuple[float, ...] = FFN_SHARES
    top_k_shares: tuple[float, ...] = ()
    expert_shares: tuple[float, ...] = ()
    multiple: int | None = None
    weights: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, allowed in (("attention", _ATTENTION_KINDS), ("ffn", _FFN_KINDS)):
            object.__setattr__(self, name, _kinds(name, getattr(self, name), allowed))
        with reading_values("layer options"):
            names = ("ffn_shares", "top_k_shares", "expert_shares")
            shares = {name: tuple(getattr(self, name)) for name in names}
            for name, given in shares.items():
                object.__setattr__(self, name, given)
            formats = (self.weights,) if isinstance(self.weights, str) else tuple(self.weights)
            object.__setattr__(self, "weights", tuple(dict.fromkeys(formats)))
            wrong = {
                name: [share for share in values if not 0 < share <= 1]
                for name, values in shares.items()
            }
            for name in ("kv_heads", "groups", "windows"):
                if (given := getattr(self, name)) is not None:
                    sizes = tuple(size_of("layer options", name, size) for size in given)
                    object.__setattr__(self, name, sizes)
        for name, outside in wrong.items():
            if outside:
                raise ValueError(f"{name} {outside}; allowed: above 0 up to 1, such as 0.5")
        for format_name in self.weights:
            weight_format(format_name)
        if self.multiple is not None:
            multiple = size_of("layer options", "multiple", self.multiple)
            object.__setattr__(self, "multiple", multiple)

    def changed(self, values: LayerOptions | Mapping[str, Any]) -> LayerOptions:
        """Returns these options with some replaced; ValueError names unknown ones."""
        if isinstance(values, LayerOptions):
            return values
        check_keys("layer options", values, tuple(LayerOptions.__dataclass_fields__))
        return replace(self, **values)

    def attentions(self, shape: ModelShape, layer: int = 0) -> tuple[Attention, ...]:
        """Returns the attention alternatives for a layer of a parent, most KV heads first."""
        own = shape.parent_blocks[layer].attention
        choices = [] if own.kv_heads is None else self._softmax(own, own.heads or shape.heads)
        choices += [Attention(kind) for kind in ("linear", "none") if kind in self.attention]
        own_first = (own, *(choice for choice in choices if choice != own))
        return self._in_formats(shape, own_first)[1:]

    def _softmax(self, own: Attention, heads: int) -> list[Attention]:
        """Returns the softmax attentions that can be made from one of so many query heads."""
        most = own.kv_heads or 1
        windows = sorted(set(self.windows), reverse=True)
        near = [window for window in windows if window < (own.window or window + 1)]
        choices = [replace(own, window=window) for window in near]
        if "gqa" in self.attention:
            counts = self.kv_heads
            if counts is None:
                counts = tuple(n for n in range(1, most) if most % n == 0)
            fitting = [n for n in counts if own.heads is None or heads % n == 0]
            choices += [replace(own, kv_heads=n) for n in sorted(set(fitting), reverse=True)]
        if "groups" in self.attention:
            kept = self.groups
            if kept is None:
                kept = (*(round(most * share) for share in GROUP_SHARES), 1)
                kept = tuple(n for n in kept if 0 < n < most)
            choices += [
                replace(own, kv_heads=n, heads=n * (heads // most))
                for n in sorted(set(kept), reverse=True)
            ]
        return choices

    def ffns(self, shape: ModelShape, layer: int = 0) -> tuple[FFN, ...]:
        """Returns the FFN alternatives for a layer of a parent, the widest first."""
        own, multiple = shape.parent_blocks[layer].ffn, self.multiple
        rest = tuple(FFN(kind) for kind in ("linear", "none") if kind in self.ffn)
        if own.kind == "moe":
            return (*self._mixtures(own), *rest)
        widest = own.width or 0
        if multiple is None:
            multiple = WIDTH_MULTIPLE if widest >= 4 * WIDTH_MULTIPLE else 1
        widths: set[int] = set()
        if "gated" in self.ffn:
            rounded = (round(widest * share / multiple) * multiple for share in self.ffn_shares)
            widths = {max(multiple, width) for width in rounded}
        narrower = [FFN("gated", w) for w in sorted(widths, reverse=True) if w < widest]
        return self._in_formats(shape, (own, *narrower, *rest))[1:]

    def _in_formats(self, shape: ModelShape, halves: Iterable[_Half]) -> tuple[_Half, ...]:
        """Returns halves of blocks, each followed by itself in every format that its rows fit."""
        choices: list[_Half] = []
        for half in halves:
            choices.append(half)
            if half.kind in ("gqa", "gated"):
                quantised = (replace(half, weights=name) for name in self.weights)
                choices += [one for one in quantised if shape.holds(one)]
        return tuple(choices)

    def _mixtures(self, own: FFN) -> list[FFN]:
        """Returns mixtures of fewer of the parent's experts, and of fewer for each token."""
        experts, top_k = own.experts or 1, own.top_k or 1
        fewer = {max(1, round(top_k * share)) for share in self.top_k_shares} - {top_k}
        choices = [replace(own, top_k=number) for number in sorted(fewer, reverse=True)]
        width = own.width or 1
        narrow = {max(1, round(width * share)) for share in self.expert_shares} - {width}
        choices += [replace(own, width=number) for number in sorted(narrow, reverse=True)]
        if "gated" in self.ffn:
            # As many as a token needs, and never the parent's own number.
            kept = {max(top_k, round(experts * share)) for share in self.ffn_shares} - {experts}
            choices += [replace(own, experts=number) for number in sorted(kept, reverse=True)]
        return choices


def _kinds(name: str, kinds: Iterable[str], allowed: tuple[str, ...]) -> tuple[str, ...]:
    with reading_values(f"{name} kinds"):
        given = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    unknown = [kind for kind in given if kind not in allowed]
    if unknown:
        raise ValueError(f"{name} kinds {unknown}; allowed: {', '.join(allowed)}")
    return given


def layers_named(shape: ModelShape, key: LayerKey) -> list[int]:
    """Returns the layers that a key names: 3, -1, "4-7" or range(4, 8).

    Raises:
        ValueError: The key is malformed, or a layer does not exist.

    Example:
        >>> shape = ModelShape(layers=8, hidden=8, heads=2, head_dim=4, kv_heads=2,
        ...                    ffn_width=16, vocab=32)
        >>> layers_named(shape, "4-6"), layers_named(shape, -1)
        ([4, 5, 6], [7])
    """
    layers = _named(key)
    ends = (layers[0], layers[-1]) if layers else ()
    wrong = [layer for layer in ends if not -shape.layers <= layer < shape.layers]
    if wrong or not layers:
        what = f"layer {wrong[0]}" if wrong else "no layer"
        raise ValueError(
            f"layers {key!r} name {what}; allowed: {-shape.layers} to {shape.layers - 1}"
        )
    return [layer % shape.layers for layer in layers]


def layers_kept(shape: ModelShape, keep: LayerKey | Iterable[LayerKey]) -> set[int]:
    """Returns the layers that any of several keys, or one key alone, name.

    Raises:
        ValueError: `keep` is no key and no keys, or as in `layers_named`.
    """
    if not isinstance(keep, int | str | Iterable):
        raise ValueError(f"keep={keep!r}; allowed: layers such as 0, -1, '4-7', or a list of them")
    keys = (keep,) if isinstance(keep, int | str) else keep
    return {layer for key in keys for layer in layers_named(shape, key)}


def _named(key: LayerKey) -> range:
    """The layers of a key as a range, which takes no memory however many they are."""
    if isinstance(key, range):
        return key
    text = str(key)
    one = re.fullmatch(r"\s*(-?[0-9]{1,9})\s*", text)
    several = re.fullmatch(r"\s*([0-9]{1,18})\s*-\s*([0-9]{1,18})\s*", text)
    if one:
        return range(int(one[1]), int(one[1]) + 1)
    if several:
        return range(int(several[1]), int(several[2]) + 1)
    raise ValueError(f"layers {text[:60]!r}; allowed: a layer such as 3 or -1, '4-7', or a range")
