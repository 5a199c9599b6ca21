"""ModelShape: the sizes of a parent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from search_space.blocks import (
    FFN,
    MIXERS,
    Attention,
    Block,
    check_keys,
    reading_values,
    size_of,
)
from search_space.weight_formats import weight_format

# The largest models have some hundred layers and heads.
MOST_COUNTED = 2**16

# How much of a strange value a message shows.
_SHOWN = 60


# Counts that only some families have; shapes that were stored before they were known lack them.
_NEWER = ("mixer", "mixer_state", "moe", "expert", "expert_channel")


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
        query_head: Of one query head, which `attention` contains; as in a Llama if not given.
        mixer: Of a hybrid's mixer with its norm.
        mixer_state: Numbers that a mixer keeps of each sequence, however long it is.
        moe: Of a mixture of experts with its norms, without experts.
        expert: Of one expert without channels: its row of the router, and biases.
        expert_channel: Of one channel of an expert.

    Raises:
        ValueError: One of them is no integer of 0 or more.
    """

    attention: int
    kv_head: int
    ffn: int
    channel: int
    attention_norm: int
    ffn_norm: int
    # Shapes that were stored before heads could be removed lack it, and are of the same parent.
    query_head: int | None = field(default=None, compare=False)
    mixer: int | None = None
    mixer_state: int | None = None
    moe: int | None = None
    expert: int | None = None
    expert_channel: int | None = None

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if name in ("query_head", *_NEWER) and getattr(self, name) is None:
                continue
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
        windows: Tokens that each layer of the parent attends to at most, None for all; for costs.
            What a layer of a child attends to is limited by them as well as by its block.

    Raises:
        ValueError: A size is not a positive integer, `kv_heads` does not divide `heads`, or there
            is not one block, or one window, per layer.
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
    windows: tuple[int | None, ...] | None = None

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
        if self.windows is not None:
            self._check_windows(tuple(self.windows))

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

    def _check_windows(self, windows: tuple[int | None, ...]) -> None:
        if len(windows) != self.layers:
            raise ValueError(
                f"model shape: {len(windows)} windows for {self.layers} layers; give one per layer"
            )
        sizes = [None if w is None else size_of("model shape", "windows", w) for w in windows]
        object.__setattr__(self, "windows", tuple(sizes) if any(sizes) else None)

    def windowed(self, layer: int, block: Block) -> Block:
        """Returns a block as it runs in a layer: within the window of the parent's own layer."""
        own = self.windows[layer] if self.windows and layer < self.layers else None
        attention = block.attention
        if own is None or attention.kind != "gqa" or (attention.window or own + 1) <= own:
            return block
        return Block(replace(attention, window=own), block.ffn)

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

    def _check_attention(self, half: Attention, own: Attention) -> None:
        """Raises ValueError unless an attention keeps heads and tokens of the parent's own."""
        self.check_coherent(Block(half, FFN("none")))
        kept, most = half.kv_heads or 0, own.kv_heads or 0
        heads, all_heads = half.heads or self.heads, own.heads or self.heads
        if kept > most:
            raise ValueError(
                f"kv_heads={kept} is more than the parent's {most}; "
                f"allowed: divisors of {all_heads} up to {most}"
            )
        if heads != all_heads and heads * most != kept * all_heads:
            group = all_heads // most
            raise ValueError(
                f"heads={heads} of kv_heads={kept} are not whole groups: the parent has {group} "
                f"query heads to each of its {most} key-value heads; allowed: "
                + (", ".join(f"gqa{n}h{n * group}" for n in range(1, most)) or "none")
            )
        if own.window is not None and (half.window is None or half.window > own.window):
            raise ValueError(
                f"{half.label} attends to more tokens than the parent's {own.label}; "
                f"allowed: windows of 1 to {own.window}"
            )

    def check_coherent(self, block: Block) -> None:
        """Raises ValueError if no layer of these sizes can be built from the block."""
        attention = block.attention
        self._check_rows(attention)
        self._check_rows(block.ffn)
        if attention.heads is not None:
            if attention.heads >= self.heads:
                raise ValueError(
                    f"heads={attention.heads}; allowed: fewer than the parent's {self.heads}, or "
                    "left out for as many"
                )
            self._check_kv_heads(self.heads * (attention.kv_heads or 1) // attention.heads)
        elif attention.kv_heads is not None:
            self._check_kv_heads(attention.kv_heads)

    def _check_rows(self, half: Attention | FFN) -> None:
        """Raises ValueError unless the rows of quantised matrices consist of whole blocks."""
        if half.weights is None:
            return
        if isinstance(half, Attention):
            inner = (half.heads or self.heads) * self.head_dim
        else:
            inner = half.width or 0
        size = weight_format(half.weights).block
        if wrong := [row for row in (self.hidden, inner) if row % size]:
            raise ValueError(
                f"{half.label} has rows of {wrong[0]} weights, and {half.weights} stores blocks of "
                f"{size}; allowed: multiples of {size}, or no format"
            )

    def holds(self, half: Attention | FFN) -> bool:
        """Returns whether the rows of half a block consist of whole blocks of its format."""
        try:
            self._check_rows(half)
        except ValueError:
            return False
        return True

    def check(self, layer: int, half: Attention | FFN) -> None:
        """Raises ValueError if half a block cannot stand in for the parent's at a layer.

        An alternative keeps some of the parent's heads and channels, so it has no more of them;
        a layout may be wider, as fused FFNs are.
        """
        block = self.parent_blocks[layer]
        own: Attention | FFN = block.attention if isinstance(half, Attention) else block.ffn
        if own.kind == "none" and half.kind != "none":
            raise ValueError(f"{half.label!r} has nothing to imitate, as the parent has none here")
        if half.kind in MIXERS and half != own:
            raise ValueError(
                f"{half.label!r} cannot take the place of {own.label!r}: a mixer is kept or removed"
            )
        if isinstance(half, Attention) and half.kind == "gqa":
            self._check_attention(half, block.attention)
        if isinstance(half, FFN):
            self._check_rows(half)
            _check_ffn(half, block.ffn)

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
        else:
            values["counts"] = {
                name: count
                for name, count in values["counts"].items()
                if name not in _NEWER or count is not None
            }
        del values["blocks"]
        if self.windows is None:
            del values["windows"]
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
        if values.get("windows") is not None:
            values = {**values, "windows": tuple(values["windows"])}
        return cls(**values)


def _check_ffn(half: FFN, own: FFN) -> None:
    """Raises ValueError unless an FFN keeps channels and experts of the parent's own."""
    if half.kind != own.kind and "moe" in (half.kind, own.kind) and half.width is not None:
        raise ValueError(
            f"{half.label!r} cannot take the place of {own.label!r}: a mixture of experts keeps "
            "some of its experts, or becomes 'linear' or 'none'"
        )
    for name, what in (("width", "FFN width"), ("experts", "experts"), ("top_k", "top_k")):
        size, most = getattr(half, name) or 0, getattr(own, name) or 0
        if size > most:
            raise ValueError(
                f"{what} {size} is larger than the parent's {most}; allowed: 1 to {most}"
            )
