"""Random weights for a layout, made tensor by tensor: an engine is as fast with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from puzzle.models.child import causal_lm_class
from puzzle.models.child_config import PuzzleConfig, layout_from_config
from puzzle.models.families import family_of
from puzzle.serving.writers.source import Source

STRIP = 64  # random rows that a matrix repeats: its values do not affect its speed


class RandomTensors(Mapping[str, torch.Tensor]):
    """The tensors of a child by name, each made on access.

    Args:
        config: Config of the child.
        dtype: Their number format.
    """

    def __init__(self, config: PuzzleConfig, dtype: torch.dtype) -> None:
        with torch.device("meta"):
            model = causal_lm_class(family_of(config))(config)
        self._shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        self._dtype = dtype
        self._generator = torch.Generator().manual_seed(0)

    def __getitem__(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        if len(shape) == 1:
            return torch.ones(shape, dtype=self._dtype)
        rows, columns = shape
        strip = torch.randn(min(rows, STRIP), columns, generator=self._generator) * columns**-0.5
        return strip.to(self._dtype).repeat(-(-rows // STRIP), 1)[:rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def random_source(config: PuzzleConfig, dtype: torch.dtype) -> Source:
    """Returns a child with random weights, ready for an exporter."""
    tensors = RandomTensors(config, dtype)
    return Source(config=config, layout=layout_from_config(config), tensors=tensors)
