"""A layout's child as it is read from a library: its tensors by name, a layer at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

from puzzle.library.build import Library
from puzzle.library.variants import Tensors, Variants
from puzzle.models.child_config import config_from_layout
from puzzle.models.generation import inherit_generation_config
from puzzle.models.model_writing import StreamedModel, model_of_shapes, stored_tensors
from search_space import Layout


class ChildTensors(Mapping[str, torch.Tensor]):
    """The state dict of a layout's child, of which memory holds one layer.

    Args:
        library: Where the blocks are.
        layout: The layout.
        names: The names of its tensors, in the order in which they are gone over.
        dtype: Number format of the parent's own tensors; by default that of the library.
    """

    def __init__(
        self,
        library: Library,
        layout: Layout,
        names: Iterable[str],
        dtype: torch.dtype | None = None,
    ) -> None:
        self.library, self.layout, self.names = library, layout, tuple(names)
        self.parent = library.parent.cast(dtype or library.parent.dtype)
        pattern = self.parent.family.layer_prefix
        numbers = {pattern.format(index): index for index in range(layout.shape.layers)}
        self._numbers = numbers
        self._prefixes = {
            name: next((start for start in _starts(name) if start in numbers), None)
            for name in self.names
        }
        self._layer: tuple[str, Tensors] = ("", {})

    def __getitem__(self, name: str) -> torch.Tensor:
        prefix = self._prefixes[name]
        if prefix is None:
            return self.parent.tensors[name].to(self.parent.dtype)
        if self._layer[0] != prefix:
            index = self._numbers[prefix]
            self._layer = ("", {})  # before the next layer is read
            variants = Variants(self.parent, index, self.library.layers[index])
            self._layer = (prefix, variants.block_tensors(self.layout.blocks[index]))
        return self._layer[1][name.removeprefix(prefix)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _starts(name: str) -> Iterator[str]:
    """Yields what stands before each part of a name, its dot included."""
    parts = name.split(".")
    return (".".join(parts[:end]) + "." for end in range(1, len(parts)))


def streamed_child(
    library: Library, layout: Layout, dtype: torch.dtype | None = None
) -> StreamedModel:
    """Returns the child of a layout, to be written or exported without being assembled.

    Args:
        library: Where its blocks are.
        layout: The layout.
        dtype: Number format of its weights; by default that of the library.

    Raises:
        PuzzleError: The library does not have one of the blocks.
    """
    parent = library.parent
    model = model_of_shapes(config_from_layout(parent.config, layout), dtype or parent.dtype)
    inherit_generation_config(model, getattr(parent.tensors, "directory", None))
    tensors = ChildTensors(library, layout, stored_tensors(model), dtype)
    return StreamedModel(model=model, tensors=tensors)
