"""Layout: one block per layer."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import search_space
from search_space import counting
from search_space.blocks import Block, check_keys, reading_values
from search_space.drawing import layout_svg
from search_space.shape import ModelShape
from search_space.user_files import file_named, save_file

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True, repr=False)
class Layout:
    """One block per layer: the architecture of a child.

    A block may be wider than the parent's, as fused FFNs are; what a search may choose is up to
    `SearchSpace`.

    Args:
        shape: The parent's sizes; its `layers` are those of this layout.
        blocks: One block per layer.

    Raises:
        ValueError: The number of blocks is not `shape.layers`, or the KV heads of a block do not
            divide the query heads.

    Example:
        >>> shape = ModelShape(layers=2, hidden=8, heads=2, head_dim=4, kv_heads=2,
        ...                    ffn_width=16, vocab=32)
        >>> Layout.parent(shape).replace(0, Block.from_label("none+gated8"))
        Layout(2 layers, 1,376 parameters: 0 none+gated8 | 1 gqa2+gated16)
    """

    shape: ModelShape
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if len(self.blocks) != self.shape.layers:
            raise ValueError(
                f"{len(self.blocks)} blocks for {self.shape.layers} layers; give one per layer"
            )
        for layer, block in enumerate(self.blocks):
            try:
                self.shape.check_coherent(block)
            except ValueError as error:
                raise ValueError(f"layer {layer}: {error}") from None

    @classmethod
    def parent(cls, shape: ModelShape) -> Layout:
        """Returns the layout of the unchanged parent."""
        return cls(shape, shape.parent_blocks)

    @classmethod
    def published(cls, name: str) -> Layout:
        """Returns a published layout, such as "llama-3.3-nemotron-super-49b-v1".

        `published_layout` also gives its sources and what of it is inferred.

        Raises:
            ValueError: There is no published layout of that name.
        """
        return search_space.published_layout(name).layout

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        kv_heads: int | None = None,
        ffn_width: int | None = None,
    ) -> Layout:
        """Returns the layout of a model's config.json; see `formats.layout_from_json`."""
        return search_space.formats.layout_from_json(config, kv_heads=kv_heads, ffn_width=ffn_width)

    @property
    def unquantised(self) -> Layout:
        """The same layout, all weights in the format that is served."""
        return Layout(self.shape, tuple(block.unquantised for block in self.blocks))

    def parameters(self) -> int:
        """Returns the number of parameters, tied ones counted once."""
        return counting.parameters(self)

    def weight_bytes(self, bytes_per_weight: float = 2) -> float:
        """Returns the bytes of the parameters, those with a format of their own in that.

        Args:
            bytes_per_weight: Bytes of a weight that has none.
        """
        return counting.weight_bytes(self, bytes_per_weight)

    def kv_bytes_per_token(self, bytes_per_element: int = 2) -> int:
        """Returns the bytes one token of one sequence adds to the KV cache, within all windows."""
        return counting.kv_bytes_per_token(self, bytes_per_element)

    def kv_bytes(self, tokens: int, bytes_per_element: int = 2) -> int:
        """Returns the bytes that a sequence of some tokens takes in the KV cache."""
        return counting.kv_bytes(self, tokens, bytes_per_element)

    def diff(self, other: Layout) -> dict[int, tuple[Block, Block]]:
        """Returns {layer: (own block, the other's)} for the layers that differ."""
        if self.shape != other.shape:
            raise ValueError("the two layouts have different shapes; compare within one parent")
        pairs = enumerate(zip(self.blocks, other.blocks, strict=True))
        return {layer: pair for layer, pair in pairs if pair[0] != pair[1]}

    def replace(self, layer: int, block: Block) -> Layout:
        """Returns a copy with another block at one layer."""
        blocks = list(self.blocks)
        blocks[layer] = block
        return Layout(self.shape, tuple(blocks))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"shape": self.shape.to_dict(), "blocks": [b.to_dict() for b in self.blocks]}

    @classmethod
    @reading_values("a layout")
    def from_dict(cls, values: Mapping[str, Any]) -> Layout:
        """Returns the layout that `to_dict` wrote; unknown keys are a ValueError."""
        check_keys("layout", values, ("shape", "blocks"))
        blocks = tuple(Block.from_dict(block) for block in values["blocks"])
        return cls(ModelShape.from_dict(values["shape"]), blocks)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the layout as JSON, in place of a file that is there."""
        text = json.dumps(self.to_dict(), indent=1) + "\n"
        save_file(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Layout:
        """Reads the layout that `save` wrote; ValueError names a file that holds another thing."""
        try:
            return cls.from_dict(json.loads(file_named(path).read_text(encoding="utf-8")))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no layout: {error}") from error

    def to_dataframe(self) -> pandas.DataFrame:
        """Returns the layers as a pandas DataFrame, which has to be installed.

        Returns:
            One row per layer: attention kind, KV heads, query heads and window where they are not
            the parent's, FFN kind and width, experts and those of one token, formats of the
            weights; what a kind does not have is missing.
        """
        import pandas

        frame = pandas.DataFrame(
            {
                "attention": [block.attention.kind for block in self.blocks],
                "kv_heads": [block.attention.kv_heads for block in self.blocks],
                "heads": [block.attention.heads for block in self.blocks],
                "window": [block.attention.window for block in self.blocks],
                "ffn": [block.ffn.kind for block in self.blocks],
                "width": [block.ffn.width for block in self.blocks],
                "experts": [block.ffn.experts for block in self.blocks],
                "top_k": [block.ffn.top_k for block in self.blocks],
                "attention_weights": [block.attention.weights for block in self.blocks],
                "ffn_weights": [block.ffn.weights for block in self.blocks],
            }
        )
        sizes = ("kv_heads", "heads", "window", "width", "experts", "top_k")
        frame = frame.astype(dict.fromkeys(sizes, "Int64"))
        frame.index.name = "layer"
        return frame

    def runs(self) -> list[tuple[str, str]]:
        """Returns (layers, label) for each run of equal layers."""
        runs, start = [], 0
        for label, members in groupby(block.label for block in self.blocks):
            end = start + len(list(members)) - 1
            runs.append((f"{start}-{end}" if end > start else f"{start}", label))
            start = end + 1
        return runs

    def __repr__(self) -> str:
        runs = " | ".join(f"{layers} {label}" for layers, label in self.runs())
        return f"Layout({self.shape.layers} layers, {self.parameters():,} parameters: {runs})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(layers)}</td>"
            + "".join(f"<td>{html.escape(part)}</td>" for part in label.split("+"))
            + "</tr>"
            for layers, label in self.runs()
        )
        try:
            picture = layout_svg(self)
        except ValueError:  # more layers than a picture has room for
            picture = ""
        return (
            f"{picture}<details><summary>blocks</summary>"
            f"<table><tr><th>layers</th><th>attention</th><th>FFN</th></tr>{rows}</table></details>"
        )
