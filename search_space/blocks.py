"""Attention, FFN, Block and ModelShape: the values that every other part uses."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

# The largest models have some hundred layers and heads.
MOST_COUNTED = 2**16

# No size of a model comes near it, and a float still holds it exactly.
_LARGEST = 2**53

# How much of a strange value a message shows.
_SHOWN = 60


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
            map of the normed input, no cache) or "none".
        kv_heads: Key-value heads; given for "gqa" only.

    Raises:
        ValueError: The kind is unknown, or `kv_heads` does not go with it.

    Example:
        >>> Attention("gqa", 3).label
        'gqa3'
    """

    kind: str = "gqa"
    kv_heads: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("gqa", "linear", "none"):
            raise ValueError(f"attention kind {self.kind!r}; allowed: 'gqa', 'linear', 'none'")
        if self.kind == "gqa":
            heads = size_of("gqa attention", "kv_heads", self.kv_heads)
            object.__setattr__(self, "kv_heads", heads)
        elif self.kv_heads is not None:
            raise ValueError(f"{self.kind!r} attention has no kv_heads; leave it out")

    @property
    def label(self) -> str:
        """The short name: "gqa3", "linear" or "none"."""
        return f"gqa{self.kv_heads}" if self.kind == "gqa" else self.kind

    @classmethod
    def from_label(cls, label: str) -> Attention:
        """Returns the attention that has this label; ValueError if there is none."""
        match = re.fullmatch(r"gqa([0-9]{1,16})", label)
        if match:
            return cls("gqa", int(match[1]))
        if label in ("linear", "none"):
            return cls(label)
        raise ValueError(f"attention label {label!r}; allowed: 'gqa<kv heads>', 'linear', 'none'")


@dataclass(frozen=True, slots=True)
class FFN:
    """The feed-forward half of a block.

    Args:
        kind: "gated" (gate, up and down projections of `width` channels), "linear" or "none".
        width: Channels; given for "gated" only.

    Raises:
        ValueError: The kind is unknown, or `width` does not go with it.

    Example:
        >>> FFN("gated", 768).label
        'gated768'
    """

    kind: str = "gated"
    width: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("gated", "linear", "none"):
            raise ValueError(f"FFN kind {self.kind!r}; allowed: 'gated', 'linear', 'none'")
        if self.kind == "gated":
            object.__setattr__(self, "width", size_of("gated FFN", "width", self.width))
        elif self.width is not None:
            raise ValueError(f"{self.kind!r} FFN has no width; leave it out")

    @property
    def label(self) -> str:
        """The short name: "gated768", "linear" or "none"."""
        return f"gated{self.width}" if self.kind == "gated" else self.kind

    @classmethod
    def from_label(cls, label: str) -> FFN:
        """Returns the FFN that has this label; ValueError if there is none."""
        match = re.fullmatch(r"gated([0-9]{1,16})", label)
        if match:
            return cls("gated", int(match[1]))
        if label in ("linear", "none"):
            return cls(label)
        raise ValueError(f"FFN label {label!r}; allowed: 'gated<width>', 'linear', 'none'")


@dataclass(frozen=True, slots=True)
class Block:
    """One attention choice and one FFN choice: the architecture of a decoder layer.

    Example:
        >>> Block.from_label("gqa1+none").attention
        Attention(kind='gqa', kv_heads=1)
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

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    @classmethod
    @reading_values("a block")
    def from_dict(cls, values: Mapping[str, Any]) -> Block:
        """Returns the block that `to_dict` wrote; unknown keys are a ValueError."""
        check_keys("block", values, ("attention", "ffn"))
        check_keys("attention", values["attention"], ("kind", "kv_heads"))
        check_keys("ffn", values["ffn"], ("kind", "width"))
        return cls(Attention(**values["attention"]), FFN(**values["ffn"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SublayerCounts:
    """The parameters of a parent's sublayers, for families that have other ones than Llama.

    Args:
        attention: Of an attention with its norms, without keys and values.
        kv_head: Of one head of keys and values.
        ffn: Of an FFN with its norms, without channels.
        channel: Of one channel.
        attention_norm: Of the norm before a linear map in place of the attention.
        ffn_norm: Of the norm before a linear map in place of the FFN.

    Raises:
        ValueError: One of them is no integer of 0 or more.
    """

    attention: int
    kv_head: int
    ffn: int
    channel: int
    attention_norm: int
    ffn_norm: int

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            size = size_of("sublayer counts", name, getattr(self, name), least=0)
            object.__setattr__(self, name, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a parent that all its layers share.

    Args:
        layers: Decoder layers.
        hidden: Width of the residual stream.
        heads: Query heads.
        head_dim: Channels per head.
        kv_heads: Key-value heads; divides `heads`.
        ffn_width: Channels of the FFN.
        vocab: Rows of the embedding.
        tied: Whether the output head is the embedding.
        attention_bias: Whether q, k, v and o have a bias.
        mlp_bias: Whether gate, up and down have a bias.
        counts: Parameters of the sublayers, where they are not those of a Llama.
        blocks: The parent's block of each layer, where they are not all of `kv_heads` and
            `ffn_width`.

    Raises:
        ValueError: A size is not a positive integer, `kv_heads` does not divide `heads`, or there
            is not one block per layer.
    """

    layers: int
    hidden: int
    heads: int
    head_dim: int
    kv_heads: int
    ffn_width: int
    vocab: int
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    counts: SublayerCounts | None = None
    blocks: tuple[Block, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "head_dim", "kv_heads", "ffn_width", "vocab"):
            object.__setattr__(self, name, size_of("model shape", name, getattr(self, name)))
        for name in ("tied", "attention_bias", "mlp_bias"):
            flag = getattr(self, name)
            if flag not in (True, False):
                shown = repr(flag)[:_SHOWN]
                raise ValueError(f"model shape: {name}={shown}; allowed: True, False")
            object.__setattr__(self, name, bool(flag))
        for name in ("layers", "heads"):
            # They are counted through, and may come from a damaged file.
            if getattr(self, name) > MOST_COUNTED:
                raise ValueError(f"model shape: {name} is above {MOST_COUNTED:,}; is it damaged?")
        self._check_kv_heads(self.kv_heads)
        if self.blocks is not None:
            self._check_blocks(tuple(self.blocks))

    def _check_blocks(self, blocks: tuple[Block, ...]) -> None:
        if len(blocks) != self.layers:
            raise ValueError(
                f"model shape: {len(blocks)} blocks for {self.layers} layers; give one per layer"
            )
        for block in blocks:
            self.check_coherent(block)
        # One value for one parent, however it was given.
        alike = all(block == self.usual_block for block in blocks)
        object.__setattr__(self, "blocks", None if alike else blocks)

    @property
    def usual_block(self) -> Block:
        """The block of `kv_heads` and `ffn_width`, which all layers have if not said otherwise."""
        return Block(Attention("gqa", self.kv_heads), FFN("gated", self.ffn_width))

    @property
    def parent_blocks(self) -> tuple[Block, ...]:
        """The parent's block of each layer."""
        return self.blocks or (self.usual_block,) * self.layers

    def _check_kv_heads(self, kv_heads: int) -> None:
        if self.heads % kv_heads:
            divisors = [n for n in range(1, self.heads + 1) if self.heads % n == 0]
            raise ValueError(
                f"kv_heads={kv_heads} does not divide heads={self.heads}; allowed: {divisors}"
            )

    def check_coherent(self, block: Block) -> None:
        """Raises ValueError if no layer of these sizes can be built from the block."""
        if block.attention.kv_heads is not None:
            self._check_kv_heads(block.attention.kv_heads)

    def check(self, layer: int, half: Attention | FFN) -> None:
        """Raises ValueError if half a block cannot stand in for the parent's at a layer.

        An alternative keeps some of the parent's heads and channels, so it has no more of them;
        a layout may be wider, as fused FFNs are.
        """
        block = self.parent_blocks[layer]
        own: Attention | FFN = block.attention if isinstance(half, Attention) else block.ffn
        if own.kind == "none" and half.kind != "none":
            raise ValueError(f"{half.label!r} has nothing to imitate, as the parent has none here")
        if isinstance(half, Attention) and half.kv_heads is not None:
            self._check_kv_heads(half.kv_heads)
            most = block.attention.kv_heads or 0
            if half.kv_heads > most:
                raise ValueError(
                    f"kv_heads={half.kv_heads} is more than the parent's {most}; "
                    f"allowed: divisors of {self.heads} up to {most}"
                )
        if isinstance(half, FFN) and (half.width or 0) > (most := block.ffn.width or 0):
            raise ValueError(
                f"FFN width {half.width} is larger than the parent's {most}; allowed: 1 to {most}"
            )

    def fits(self, layer: int, half: Attention | FFN) -> bool:
        """Returns whether half a block can stand in for the parent's at a layer."""
        try:
            self.check(layer, half)
        except ValueError:
            return False
        return True

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        values = asdict(self)
        if self.counts is None:  # as it was before there were other families than Llama
            del values["counts"]
        del values["blocks"]
        if self.blocks is not None:
            values["blocks"] = [block.label for block in self.blocks]
        return values

    @classmethod
    @reading_values("a model shape")
    def from_dict(cls, values: Mapping[str, Any]) -> ModelShape:
        """Returns the shape that `to_dict` wrote; unknown keys are a ValueError."""
        check_keys("model shape", values, tuple(cls.__dataclass_fields__))
        counts = values.get("counts")
        if counts is not None:
            check_keys("sublayer counts", counts, tuple(SublayerCounts.__dataclass_fields__))
            values = {**values, "counts": SublayerCounts(**counts)}
        blocks = values.get("blocks")
        if blocks is not None:
            values = {**values, "blocks": tuple(map(Block.from_label, blocks))}
        return cls(**values)
