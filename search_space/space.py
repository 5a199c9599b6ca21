"""SearchSpace: the alternatives allowed at each layer."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from search_space.blocks import FFN, Attention, Block, check_keys, reading_values, size_of
from search_space.layout import Layout
from search_space.options import LayerKey, LayerOptions, layers_kept, layers_named
from search_space.plain_layouts import counted_choices, is_plain
from search_space.presets import preset_named
from search_space.shape import ModelShape

Exceptions = Mapping[LayerKey, LayerOptions | Mapping[str, Any]]


@dataclass(frozen=True, slots=True, repr=False)
class SearchSpace:
    """The attention and FFN alternatives of every layer; the parent's own come first.

    Args:
        shape: The parent's sizes.
        attentions: Per layer, the attention choices.
        ffns: Per layer, the FFN choices.
        whole_layers: Whether attention and FFN of a layer are only removed together.
        distinct: At most how many different blocks the layers of one kind of the parent's may have,
            beside those that are removed whole, and where there are several kinds of layers, how
            many different halves of one kind; any number if None. With 1, layers have only blocks
            of a checkpoint of the parent's own architecture: halves of the parent's kinds, without
            windows of their own, or nothing.

    Raises:
        ValueError: A choice does not fit the shape, occurs twice, or the parent's is missing.

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
    whole_layers: bool = False
    distinct: int | None = None

    def __post_init__(self) -> None:
        if self.distinct is not None:
            count = size_of("search space", "distinct", self.distinct)
            object.__setattr__(self, "distinct", count)
        for name, half in (("attentions", "attention"), ("ffns", "ffn")):
            layers = getattr(self, name)
            if len(layers) != self.shape.layers:
                raise ValueError(
                    f"{name} for {len(layers)} layers; the shape has {self.shape.layers}"
                )
            own = [getattr(block, half) for block in self.shape.parent_blocks]
            ordered = tuple(_parent_first(i, row, own[i]) for i, row in enumerate(layers))
            object.__setattr__(self, name, ordered)
        for layer in range(self.shape.layers):
            for block in self.blocks(layer):
                try:
                    self.shape.check(layer, block.attention)
                    self.shape.check(layer, block.ffn)
                except ValueError as error:
                    raise ValueError(f"layer {layer}: {error}") from None

    @classmethod
    def uniform(
        cls,
        shape: ModelShape,
        *,
        attentions: Iterable[Attention | str] = (),
        ffns: Iterable[FFN | str] = (),
        keep: LayerKey | Iterable[LayerKey] = (),
    ) -> SearchSpace:
        """Returns the space with the same alternatives in all layers.

        Where the layers of the parent differ, each has those that it can be made into.

        Args:
            shape: The parent's sizes.
            attentions: Attention alternatives or labels; the parent's own is added.
            ffns: FFN alternatives or labels; the parent's own is added.
            keep: Layers that stay as they are: 0, -1, "4-7" or a range.

        Raises:
            ValueError: A label or layer does not exist, or a choice does not fit the shape.
        """
        with reading_values("alternatives"):
            rows = [a if isinstance(a, Attention) else Attention.from_label(a) for a in attentions]
            columns = [f if isinstance(f, FFN) else FFN.from_label(f) for f in ffns]
        kept = layers_kept(_shape(shape), keep)
        if shape.blocks is not None:
            _refuse_unused(shape, (*rows, *columns), kept)
        layers = range(shape.layers)
        return cls(
            shape,
            _rows(shape, "attention", (() if layer in kept else rows for layer in layers)),
            _rows(shape, "ffn", (() if layer in kept else columns for layer in layers)),
        )

    @classmethod
    def from_options(
        cls,
        shape: ModelShape,
        options: LayerOptions | None = None,
        *,
        keep: LayerKey | Iterable[LayerKey] = (),
        exceptions: Exceptions | None = None,
        **changes: Any,
    ) -> SearchSpace:
        """Returns the space in which every layer may become what the options say.

        Args:
            shape: The parent's sizes.
            options: What a layer may become; everything if not given.
            keep: Layers that stay as they are: 0, -1, "4-7" or a range.
            exceptions: Layers with other options, named likewise: whole `LayerOptions`, or the
                options that differ. A later entry wins where two name a layer.
            **changes: Options to replace: those of `LayerOptions`, such as `attention`, `kv_heads`,
                `windows`, `ffn` and `ffn_shares`.

        Raises:
            ValueError: An option or layer does not exist, or a choice does not fit the shape.

        Example:
            >>> shape = ModelShape(layers=3, hidden=8, heads=2, head_dim=4, kv_heads=2,
            ...                    ffn_width=1024, vocab=32)
            >>> space = SearchSpace.from_options(
            ...     shape, attention="none", ffn="gated", ffn_shares=[0.5, 0.25], keep=[0],
            ...     exceptions={-1: {"attention": ()}})
            >>> [len(space.blocks(layer)) for layer in range(3)]
            [1, 6, 3]
        """
        if not isinstance(options, LayerOptions | None):
            raise ValueError(f"options={options!r}; give LayerOptions, or options by their names")
        usual = (options or LayerOptions()).changed(changes)
        at = dict.fromkeys(range(_shape(shape).layers), usual)
        for key, values in _exceptions(exceptions).items():
            at |= dict.fromkeys(layers_named(shape, key), usual.changed(values))
        at |= dict.fromkeys(layers_kept(shape, keep), LayerOptions(attention=(), ffn=()))
        return cls(
            shape,
            _rows(shape, "attention", (row.attentions(shape, i) for i, row in at.items())),
            _rows(shape, "ffn", (row.ffns(shape, i) for i, row in at.items())),
        )

    @classmethod
    def preset(
        cls,
        shape: ModelShape,
        name: str,
        *,
        keep: LayerKey | Iterable[LayerKey] = (),
        exceptions: Exceptions | None = None,
        **changes: Any,
    ) -> SearchSpace:
        """Returns a named space.

        - "default": attention with every divisor of the parent's KV heads, linear, none; FFNs of
          87, 75, 62.5, 50, 37.5, 25, 20 and 10 %, linear, none.
        - "small": the fewest KV heads or no attention; FFNs of 75 and 50 %, or none.
        - "attention", "ffn": one half of "default".
        - "no-op-only": sublayers are kept or removed.
        - "puzzle-paper": the 54 blocks of arXiv 2411.19146 (for a parent of 8 KV heads).
        - "nemotron-super": attention kept or removed, FFNs narrowed or removed, as in arXiv
          2505.00949.
        - "depth": whole layers are kept or removed; "uniform": one block in all layers, with fewer
          KV heads and a narrower FFN; "plain": both. Their children are checkpoints of the
          parent's own `model_type`.
        - "serving:vllm", "serving:llama.cpp" and so on for each of `search_space.ENGINES`: what
          that engine runs at the variant's own cost, in widths that it prefers.

        Args:
            shape: The parent's sizes.
            name: One of the above.
            keep: As in `from_options`.
            exceptions: As in `from_options`; they come after the preset's own.
            **changes: As in `from_options`; they hold for all layers.

        Raises:
            ValueError: There is no preset of that name, or as in `from_options`.

        Example:
            >>> shape = ModelShape(layers=80, hidden=8192, heads=64, head_dim=128, kv_heads=8,
            ...                    ffn_width=28672, vocab=128256)
            >>> len(SearchSpace.preset(shape, "puzzle-paper").blocks(0))
            54
        """
        preset = preset_named(name, _shape(shape))
        merged: dict[LayerKey, LayerOptions | Mapping[str, Any]] = {
            layer: options.changed(changes) for layer, options in preset.exceptions.items()
        }
        # Re-inserted, so that a key of the preset's own does not keep its earlier place.
        for key, values in _exceptions(exceptions).items():
            merged.pop(key, None)
            merged[key] = values
        space = cls.from_options(shape, preset.options, keep=keep, exceptions=merged, **changes)
        return replace(space, whole_layers=preset.whole_layers, distinct=preset.distinct)

    def blocks(self, layer: int) -> tuple[Block, ...]:
        """Returns every block allowed at a layer, the parent's first."""
        own = self.shape.parent_blocks[layer]
        blocks = (Block(a, f) for a in self.attentions[layer] for f in self.ffns[layer])
        return tuple(
            block
            for block in blocks
            if (not self.whole_layers or _whole(block, own))
            and (self.distinct != 1 or is_plain(block, own))
        )

    @property
    def log10_size(self) -> float:
        """The decimal logarithm of the number of layouts."""
        return sum(math.log10(len(self.blocks(i))) for i in range(self.shape.layers))

    def contains(self, layout: Layout) -> bool:
        """Returns whether the space allows this layout."""
        return (
            layout.shape == self.shape
            and self._few_kinds(layout)
            and all(block in self.blocks(layer) for layer, block in enumerate(layout.blocks))
        )

    def _few_kinds(self, layout: Layout) -> bool:
        if self.distinct is None:
            return True
        labels = [block.label for block in layout.blocks]
        kinds = (
            {names[labels[layer]] for layer in layers} - {None}
            for layers, names in counted_choices(self.shape, layout.blocks)
        )
        return all(len(each) <= self.distinct for each in kinds)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        rules = {"whole_layers": self.whole_layers or None, "distinct": self.distinct}
        return {
            "shape": self.shape.to_dict(),
            "attentions": [[a.label for a in row] for row in self.attentions],
            "ffns": [[f.label for f in row] for row in self.ffns],
            **{name: value for name, value in rules.items() if value is not None},
        }

    @classmethod
    @reading_values("a search space")
    def from_dict(cls, values: Mapping[str, Any]) -> SearchSpace:
        """Returns the space that `to_dict` wrote; unknown keys are a ValueError."""
        check_keys("search space", values, tuple(cls.__dataclass_fields__))
        whole_layers = values.get("whole_layers", False)
        if whole_layers not in (True, False):
            raise ValueError("search space: whole_layers; allowed: true, false")
        return cls(
            ModelShape.from_dict(values["shape"]),
            tuple(tuple(Attention.from_label(a) for a in row) for row in values["attentions"]),
            tuple(tuple(FFN.from_label(f) for f in row) for row in values["ffns"]),
            whole_layers=bool(whole_layers),
            distinct=values.get("distinct"),
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


def _rows(shape: ModelShape, half: str, rows: Iterable[Iterable[Any]]) -> tuple[Any, ...]:
    """Returns the choices of each layer: the parent's own, then its alternatives.

    Where the parent's layers differ, what is too large for one may fit another: it is left out
    there. Where they are alike, `SearchSpace` refuses it.
    """
    layers = []
    for layer, (block, row) in enumerate(zip(shape.parent_blocks, rows, strict=True)):
        own = getattr(block, half)
        fitting = [one for one in row if shape.blocks is None or shape.fits(layer, one)]
        layers.append((own, *(one for one in fitting if one != own)))
    return tuple(layers)


def _refuse_unused(shape: ModelShape, halves: Iterable[Attention | FFN], kept: set[int]) -> None:
    layers = [layer for layer in range(shape.layers) if layer not in kept]
    for half in halves:
        if layers and not any(shape.fits(layer, half) for layer in layers):
            shape.check(layers[0], half)


def _whole(block: Block, own: Block) -> bool:
    """Returns whether the halves that the parent has are all there, or all removed."""
    pairs = ((block.attention, own.attention), (block.ffn, own.ffn))
    return len({half.kind == "none" for half, given in pairs if given.kind != "none"}) < 2


def _shape(given: Any) -> ModelShape:
    if not isinstance(given, ModelShape):
        raise ValueError(f"shape={given!r:.60}; give the parent's ModelShape")
    return given


def _exceptions(given: Any) -> Exceptions:
    if not isinstance(given, Mapping | None):
        raise ValueError(f"exceptions={given!r:.60}; give a mapping from layers to their options")
    return given or {}


def _parent_first(layer: int, choices: Iterable[Any], parent: Any) -> tuple[Any, ...]:
    row = tuple(choices)
    if len(set(row)) != len(row):
        raise ValueError(f"layer {layer}: {[c.label for c in row]} names a choice twice")
    if parent not in row:
        raise ValueError(f"layer {layer}: the parent's own {parent.label} is missing; add it")
    return (parent, *(choice for choice in row if choice != parent))
