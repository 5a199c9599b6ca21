"""Attention, FFN and Block: the values that every other part uses."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from search_space.weight_formats import WEIGHT_FORMATS, weight_format

# No size of a model comes near it, and a float still holds it exactly.
_LARGEST = 2**53

# How much of a strange value a message shows.
_SHOWN = 60

# What hybrids have in place of an attention in some layers: kept whole, or removed.
MIXERS = ("conv", "deltanet", "mamba2")

# What a label ends in where the matrices have a format of their own.
_FORMAT = "(?:@([a-z0-9_]{1,16}))?"


def size_of(owner: str, name: str, value: Any, *, least: int = 1) -> int:
    """Returns a size as an int of Python's own; numpy's integers are taken for what they are."""
    try:
        size = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        size = None
    if size is None or size < least:
        shown = repr(value)[:_SHOWN]
        raise ValueError(f"{owner}: {name}={shown}; allowed: integers of {least} or more")
    if size > _LARGEST:
        raise ValueError(f"{owner}: {name} is above {_LARGEST:,}; is the file damaged?")
    return size


@contextmanager
def reading_values(what: str) -> Iterator[None]:
    """Turns what values of an unexpected shape raise into a ValueError that says what they were.

    Only for code that takes values out of a mapping; around other work it would hide faults.
    """
    try:
        yield
    except KeyError as error:
        raise ValueError(f"these values are not {what}: {error} is missing") from error
    except (AttributeError, ArithmeticError, IndexError, RecursionError, TypeError) as error:
        raise ValueError(f"these values are not {what}: {error}") from error


def check_keys(owner: str, values: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Raises ValueError if a mapping has other keys than the allowed ones."""
    if not isinstance(values, Mapping):
        shown = repr(values)[:_SHOWN]
        raise ValueError(f"{owner}: {shown}; give an object with keys among {sorted(allowed)}")
    unknown = sorted(map(str, set(values) - set(allowed)))
    if unknown:
        raise ValueError(f"{owner}: unknown keys {unknown}; allowed: {sorted(allowed)}")


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention half of a block.

    Args:
        kind: "gqa" (softmax attention with `kv_heads` key-value heads), "linear" (one linear
            map of the normed input, no cache), "none", or one of `MIXERS`, which is the parent's
            own and has no sizes.
        kv_heads: Key-value heads; given for "gqa" only.
        heads: Query heads, where they are fewer than the parent's: whole groups of them were
            removed together with their key-value head.
        window: Tokens that each token attends to, itself included, where they are fewer than in
            the parent's layer.
        weights: One of `search_space.WEIGHT_FORMATS`, in which the matrices of "gqa" are stored;
            by default what is served.

    Raises:
        ValueError: The kind is unknown, or a size or format does not go with it.

    Example:
        >>> Attention("gqa", 3).label, Attention("gqa", 2, heads=6, window=1024).label
        ('gqa3', 'gqa2h6w1024')
        >>> Attention("gqa", 3, weights="q8_0").label
        'gqa3@q8_0'
    """

    kind: str = "gqa"
    kv_heads: int | None = None
    heads: int | None = None
    window: int | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("gqa", "linear", "none", *MIXERS):
            raise ValueError(
                f"attention kind {self.kind!r}; allowed: 'gqa', 'linear', 'none', and in hybrids "
                + ", ".join(map(repr, MIXERS))
            )
        if self.weights is not None:
            weight_format(self.weights)
        for name in ("kv_heads", "heads", "window", "weights"):
            value = getattr(self, name)
            if self.kind != "gqa" and value is not None:
                raise ValueError(f"{self.kind!r} attention has no {name}; leave it out")
            if name == "weights":
                continue
            if self.kind == "gqa" and (value is not None or name == "kv_heads"):
                object.__setattr__(self, name, size_of("gqa attention", name, value))
        if self.heads is not None and self.heads % (self.kv_heads or 1):
            raise ValueError(
                f"heads={self.heads} is no multiple of kv_heads={self.kv_heads}; each key-value "
                "head has as many query heads"
            )

    @property
    def label(self) -> str:
        """The short name: "gqa3", "gqa2h6w1024@q4_0", "linear", "none", or that of a mixer."""
        if self.kind != "gqa":
            return self.kind
        sizes = (
            ("gqa", self.kv_heads),
            ("h", self.heads),
            ("w", self.window),
            ("@", self.weights),
        )
        return "".join(f"{name}{size}" for name, size in sizes if size is not None)

    @classmethod
    def from_label(cls, label: str) -> Attention:
        """Returns the attention that has this label; ValueError if there is none."""
        number = "([0-9]{1,16})"
        match = re.fullmatch(f"gqa{number}(?:h{number})?(?:w{number})?{_FORMAT}", label)
        if match:
            kv_heads, heads, window = (int(size) if size else None for size in match.groups()[:3])
            return cls("gqa", kv_heads, heads, window, match[4])
        if label in ("linear", "none", *MIXERS):
            return cls(label)
        raise ValueError(
            f"attention label {label!r}; allowed: 'gqa<kv heads>', with 'h<query heads>' and "
            "'w<window>' after it where they are not the parent's and '@<format>' where its "
            "weights have one of their own, 'linear', 'none', or a mixer of "
            f"a hybrid: {', '.join(map(repr, MIXERS))}"
        )

    @property
    def unquantised(self) -> Attention:
        """The same attention, its matrices in the format that is served."""
        return self if self.weights is None else replace(self, weights=None)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; sizes that are the parent's are left out."""
        values: dict[str, Any] = {"kind": self.kind, "kv_heads": self.kv_heads}
        if self.heads is not None:
            values["heads"] = self.heads
        if self.window is not None:
            values["window"] = self.window
        if self.weights is not None:
            values["weights"] = self.weights
        return values


@dataclass(frozen=True, slots=True)
class FFN:
    """The feed-forward half of a block.

    Args:
        kind: "gated" (up and down projections of `width` channels, with a gate where the parent's
            FFN has one), "moe" (a mixture of `experts` such FFNs, of which each token passes
            through `top_k`), "linear" or "none".
        width: Channels, of each expert in a mixture; given for "gated" and "moe" only.
        experts: Experts; given for "moe" only.
        top_k: Experts of one token; given for "moe" only.
        weights: One of `search_space.WEIGHT_FORMATS`, in which the matrices of "gated" are stored;
            by default what is served.

    Raises:
        ValueError: The kind is unknown, or a size or format does not go with it.

    Example:
        >>> FFN("gated", 768).label, FFN("moe", 768, experts=64, top_k=4).label
        ('gated768', 'moe64x768k4')
        >>> FFN("gated", 768, weights="q4_0").label
        'gated768@q4_0'
    """

    kind: str = "gated"
    width: int | None = None
    experts: int | None = None
    top_k: int | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("gated", "moe", "linear", "none"):
            raise ValueError(f"FFN kind {self.kind!r}; allowed: 'gated', 'moe', 'linear', 'none'")
        owner = "mixture of experts" if self.kind == "moe" else f"{self.kind} FFN"
        for name, kinds in (("width", ("gated", "moe")), ("experts", "moe"), ("top_k", "moe")):
            value = getattr(self, name)
            if self.kind in kinds:
                object.__setattr__(self, name, size_of(owner, name, value))
            elif value is not None:
                raise ValueError(f"{self.kind!r} FFN has no {name}; leave it out")
        if (self.top_k or 0) > (self.experts or 0):
            raise ValueError(
                f"top_k={self.top_k} of {self.experts} experts; allowed: up to as many"
            )
        if self.weights is not None:
            weight_format(self.weights)
            if self.kind != "gated":
                raise ValueError(f"{self.kind!r} FFN has no weights of a format; leave it out")

    @property
    def label(self) -> str:
        """The short name: "gated768", "gated768@q4_0", "moe64x768k4", "linear" or "none"."""
        if self.kind == "moe":
            return f"moe{self.experts}x{self.width}k{self.top_k}"
        end = "" if self.weights is None else f"@{self.weights}"
        return f"gated{self.width}{end}" if self.kind == "gated" else self.kind

    @property
    def unquantised(self) -> FFN:
        """The same FFN, its matrices in the format that is served."""
        return self if self.weights is None else replace(self, weights=None)

    @property
    def channels(self) -> int:
        """Channels of all experts together, or of the one FFN; 0 where there are none."""
        return (self.width or 0) * (self.experts or 1)

    @classmethod
    def from_label(cls, label: str) -> FFN:
        """Returns the FFN that has this label; ValueError if there is none."""
        number = "([0-9]{1,16})"
        if match := re.fullmatch(f"gated{number}{_FORMAT}", label):
            return cls("gated", int(match[1]), weights=match[2])
        if match := re.fullmatch(f"moe{number}x{number}k{number}", label):
            experts, width, top_k = map(int, match.groups())
            return cls("moe", width, experts=experts, top_k=top_k)
        if label in ("linear", "none"):
            return cls(label)
        raise ValueError(
            f"FFN label {label!r}; allowed: 'gated<width>', with '@<format>' after it where its "
            f"weights have one of their own ({', '.join(WEIGHT_FORMATS)}), "
            "'moe<experts>x<width>k<top k>', 'linear', 'none'"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values; what only some FFNs have is left out of others."""
        values: dict[str, Any] = {"kind": self.kind, "width": self.width}
        if self.kind == "moe":
            values |= {"experts": self.experts, "top_k": self.top_k}
        if self.weights is not None:
            values["weights"] = self.weights
        return values


@dataclass(frozen=True, slots=True)
class Block:
    """One attention choice and one FFN choice: the architecture of a decoder layer.

    Example:
        >>> Block.from_label("gqa1+none").attention.kv_heads
        1
    """

    attention: Attention
    ffn: FFN

    @property
    def label(self) -> str:
        """The short name, such as "gqa3+gated768"."""
        return f"{self.attention.label}+{self.ffn.label}"

    @classmethod
    def from_label(cls, label: str) -> Block:
        """Returns the block that has this label; ValueError if there is none."""
        attention, plus, ffn = label.partition("+")
        if not plus:
            raise ValueError(f"block label {label!r}; allowed: '<attention>+<FFN>'")
        return cls(Attention.from_label(attention), FFN.from_label(ffn))

    @property
    def unquantised(self) -> Block:
        """The same block, its matrices in the format that is served."""
        return Block(self.attention.unquantised, self.ffn.unquantised)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"attention": self.attention.to_dict(), "ffn": self.ffn.to_dict()}

    @classmethod
    @reading_values("a block")
    def from_dict(cls, values: Mapping[str, Any]) -> Block:
        """Returns the block that `to_dict` wrote; unknown keys are a ValueError."""
        check_keys("block", values, ("attention", "ffn"))
        check_keys("attention", values["attention"], tuple(Attention.__dataclass_fields__))
        check_keys("ffn", values["ffn"], tuple(FFN.__dataclass_fields__))
        return cls(Attention(**values["attention"]), FFN(**values["ffn"]))
