"""What a heat map holds: alternatives down, layers across."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Cells = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """A heat map.

    Args:
        rows: Names of the alternatives.
        cells: For each of them one value for each layer; None where there is none.
        chosen: For each layer, the rows that the child has there.
        scale: Whether shades go by the value or by its logarithm.
        low: What has the lightest shade; less has it too.
        high: What has the darkest shade; more has it too.
        unit: What the values are.
    """

    rows: tuple[str, ...]
    cells: Cells
    chosen: tuple[frozenset[int], ...]
    scale: Literal["linear", "log"]
    low: float
    high: float
    unit: str


def cells_by_name(layers: Sequence[Mapping[str, float]]) -> tuple[tuple[str, ...], Cells]:
    """Returns the names that occur, and for each its value in every layer or None."""
    rows = tuple(dict.fromkeys(name for layer in layers for name in layer))
    return rows, tuple(tuple(layer.get(name) for layer in layers) for name in rows)


def rows_named(
    rows: Sequence[str], names: Sequence[Iterable[str]], layers: int
) -> tuple[frozenset[int], ...]:
    """Returns for each layer the rows that have one of its names; none if no names are given."""
    at = {name: row for row, name in enumerate(rows)}
    if not names:
        return (frozenset(),) * layers
    return tuple(frozenset(at[name] for name in each if name in at) for each in names)
