"""SearchSpace: the alternatives allowed at each layer, and named presets."""

from __future__ import annotations

import difflib
import html
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from search_space.blocks import FFN, Attention, Block, ModelShape
from search_space.layout import Layout

WIDTH_MULTIPLE = 32


def _widths(shape: ModelShape, shares: Iterable[float]) -> list[FFN]:
    """Returns gated FFNs at shares of the parent's width, rounded to an efficient multiple."""
    multiple = WIDTH_MULTIPLE if shape.ffn_width >= 4 * WIDTH_MULTIPLE else 1
    widths = {max(multiple, round(shape.ffn_width * s / multiple) * multiple) for s in shares}
    return [FFN("gated", width) for width in sorted(widths, reverse=True)]


def _fewer_kv_heads(shape: ModelShape) -> list[Attention]:
    counts = [n for n in range(shape.kv_heads - 1, 0, -1) if shape.heads % n == 0]
    return [Attention("gqa", count) for count in counts]


Alternatives = tuple[list[Attention], list[FFN]]


def _default(shape: ModelShape) -> Alternatives:
    attentions = [*_fewer_kv_heads(shape), Attention("linear"), Attention("none")]
    return attentions, [*_widths(shape, (0.75, 0.5, 0.25)), FFN("linear"), FFN("none")]


def _small(shape: ModelShape) -> Alternatives:
    attentions = [*_fewer_kv_heads(shape)[-1:], Attention("none")]
    return attentions, [*_widths(shape, (0.75, 0.5)), FFN("none")]


PRESETS: Mapping[str, Callable[[ModelShape], Alternatives]] = {
    "default": _default,
    "small": _small,
    "attention": lambda shape: (_default(shape)[0], []),
    "ffn": lambda shape: ([], _default(shape)[1]),
}


@dataclass(frozen=True, slots=True, repr=False)
class SearchSpace:
    """The attention and FFN alternatives of every layer; the parent's own come first.

    Args:
        shape: The parent's sizes.
        attentions: Per layer, the attention choices.
        ffns: Per layer, the FFN choices.

    Raises:
        ValueError: A choice does not fit the shape, is doubled, or the parent's is missing.

    Example:
        >>> shape = ModelShape(layers=2, hidden=8, heads=2, head_dim=4, kv_heads=2,
        ...                    ffn_width=16, vocab=32)
        >>> space = SearchSpace.uniform(shape, attentions=["none"], ffns=["gated8"], keep=[0])
        >>> [block.label for block in space.blocks(1)]
        ['gqa2+gated16', 'gqa2+gated8', 'none+gated16', 'none+gated8']
    """

    shape: ModelShape
    attentions: tuple[tuple[Attention, ...], ...]
    ffns: tuple[tuple[FFN, ...], ...]

    def __post_init__(self) -> None:
        own = self.shape.parent_block
        for name, parent in (("attentions", own.attention), ("ffns", own.ffn)):
            layers = getattr(self, name)
            if len(layers) != self.shape.layers:
                raise ValueError(
                    f"{name} for {len(layers)} layers; the shape has {self.shape.layers}"
                )
            ordered = tuple(_parent_first(i, row, parent) for i, row in enumerate(layers))
            object.__setattr__(self, name, ordered)
        for layer in range(self.shape.layers):
            for block in self.blocks(layer):
                try:
                    self.shape.check(block)
                except ValueError as error:
                    raise ValueError(f"layer {layer}: {error}") from None

    @classmethod
    def uniform(
        cls,
        shape: ModelShape,
        *,
        attentions: Iterable[Attention | str] = (),
        ffns: Iterable[FFN | str] = (),
        keep: Iterable[int] = (),
    ) -> SearchSpace:
        """Returns the space with the same alternatives in all layers.

        Args:
            shape: The parent's sizes.
            attentions: Attention alternatives or labels; the parent's own is added.
            ffns: FFN alternatives or labels; the parent's own is added.
            keep: Layers that stay as they are; negative ones count from the end.

        Raises:
            ValueError: A label or layer does not exist, or a choice does not fit the shape.
        """
        own = shape.parent_block
        rows = [a if isinstance(a, Attention) else Attention.from_label(a) for a in attentions]
        columns = [f if isinstance(f, FFN) else FFN.from_label(f) for f in ffns]
        attention_row = (own.attention, *(a for a in rows if a != own.attention))
        ffn_row = (own.ffn, *(f for f in columns if f != own.ffn))
        kept = {_layer_index(shape, layer) for layer in keep}
        layers = range(shape.layers)
        return cls(
            shape,
            tuple((own.attention,) if i in kept else attention_row for i in layers),
            tuple((own.ffn,) if i in kept else ffn_row for i in layers),
        )

    @classmethod
    def preset(cls, shape: ModelShape, name: str, *, keep: Iterable[int] = ()) -> SearchSpace:
        """Returns a named space: "default", "small", "attention" or "ffn".

        Raises:
            ValueError: There is no preset of that name.
        """
        if name not in PRESETS:
            close = difflib.get_close_matches(name, PRESETS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"search space {name!r}{hint}; allowed: {sorted(PRESETS)}")
        attentions, ffns = PRESETS[name](shape)
        return cls.uniform(shape, attentions=attentions, ffns=ffns, keep=keep)

    def blocks(self, layer: int) -> tuple[Block, ...]:
        """Returns every block allowed at a layer, the parent's first."""
        return tuple(Block(a, f) for a in self.attentions[layer] for f in self.ffns[layer])

    @property
    def log10_size(self) -> float:
        """The decimal logarithm of the number of layouts."""
        return sum(math.log10(len(self.blocks(i))) for i in range(self.shape.layers))

    def contains(self, layout: Layout) -> bool:
        """Returns whether the space allows this layout."""
        return layout.shape == self.shape and all(
            block in self.blocks(layer) for layer, block in enumerate(layout.blocks)
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "shape": self.shape.to_dict(),
            "attentions": [[a.label for a in row] for row in self.attentions],
            "ffns": [[f.label for f in row] for row in self.ffns],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchSpace:
        """Returns the space that `to_dict` wrote; unknown keys are a ValueError."""
        unknown = sorted(set(values) - {"shape", "attentions", "ffns"})
        if unknown:
            raise ValueError(
                f"search space: unknown keys {unknown}; allowed: shape, attentions, ffns"
            )
        return cls(
            ModelShape.from_dict(values["shape"]),
            tuple(tuple(Attention.from_label(a) for a in row) for row in values["attentions"]),
            tuple(tuple(FFN.from_label(f) for f in row) for row in values["ffns"]),
        )

    def __repr__(self) -> str:
        counts = sorted({len(self.blocks(i)) for i in range(self.shape.layers)})
        return (
            f"SearchSpace({self.shape.layers} layers, {'/'.join(map(str, counts))} blocks each, "
            f"10^{self.log10_size:.1f} layouts)"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{layer}</td><td>{html.escape(', '.join(a.label for a in attentions))}</td>"
            f"<td>{html.escape(', '.join(f.label for f in ffns))}</td></tr>"
            for layer, (attentions, ffns) in enumerate(zip(self.attentions, self.ffns, strict=True))
        )
        return f"<table><tr><th>layer</th><th>attention</th><th>FFN</th></tr>{rows}</table>"


def _layer_index(shape: ModelShape, layer: int) -> int:
    if not -shape.layers <= layer < shape.layers:
        raise ValueError(
            f"keep names layer {layer}; allowed: {-shape.layers} to {shape.layers - 1}"
        )
    return layer % shape.layers


def _parent_first(layer: int, choices: Iterable[Any], parent: Any) -> tuple[Any, ...]:
    row = tuple(choices)
    if len(set(row)) != len(row):
        raise ValueError(f"layer {layer}: {[c.label for c in row]} names a choice twice")
    if parent not in row:
        raise ValueError(f"layer {layer}: the parent's own {parent.label} is missing; add it")
    return (parent, *(choice for choice in row if choice != parent))
