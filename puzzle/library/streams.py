"""What enters one layer's variants, and what they should return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from puzzle.models.boundaries import in_batches

T = TypeVar("T")
# Windows run together.
BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Streams:
    """The inputs and targets of one layer's variants, for all windows of the fit text.

    Args:
        x: Residual stream entering the variants, (windows, length, hidden).
        attention: What their attention should add to it, float32.
        update: What attention and FFN should add together, float32.
        train: Windows that are fitted; the rest are held out.
        child: Whether x is a child's stream rather than the parent's.
        device: Where batches are run.
        features: What enters the last map of the parent's FFN, where it is kept and x is the
            parent's stream.
    """

    x: torch.Tensor
    attention: torch.Tensor
    update: torch.Tensor
    train: int
    device: torch.device
    child: bool = False
    features: torch.Tensor | None = None

    @staticmethod
    def split(windows: int, held_out: float) -> int:
        """Returns how many windows are fitted: at least one, and all but at least one."""
        return min(max(1, round(windows * (1 - held_out))), max(1, windows - 1))

    def batches(
        self,
        compute: Callable[[Rows], T],
        *,
        most: int | None = None,
        held_out_only: bool = False,
    ) -> Iterator[tuple[bool, T]]:
        """Yields (whether held out, what `compute` returns), batch by batch.

        Args:
            compute: Called with each batch.
            most: At most this many of the fitted windows, and none of those held out.
            held_out_only: Only the windows that are held out.
        """
        parts = [(False, range(self.train)), (True, range(self.train, len(self.x)))]
        if most is not None:
            parts = [(False, range(min(most, self.train)))]
        if held_out_only:
            parts = parts[-1:]
        for held_out, rows in parts:
            for _, value in in_batches(rows, BATCH, lambda part: compute(self[part])):
                yield held_out, value

    def __getitem__(self, rows: slice | torch.Tensor) -> Rows:
        """Returns some windows, on the device."""
        x, attention, update = (
            t[rows].to(self.device) for t in (self.x, self.attention, self.update)
        )
        features = None if self.features is None else self.features[rows]
        return Rows(x=x, attention=attention, update=update, features=features)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Some windows of a layer's streams, on the device."""

    x: torch.Tensor
    attention: torch.Tensor
    update: torch.Tensor
    features: torch.Tensor | None = None
