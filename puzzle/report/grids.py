"""Heat maps: scores and local errors, layers across and alternatives down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

from puzzle.library.local_error import LocalError
from puzzle.scoring.scores import Scores
from search_space import Layout

Cells = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
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


def score_grid(scores: Scores, layout: Layout | None = None) -> Grid:
    """Returns the heat map of scores.

    Args:
        scores: The scores.
        layout: The layout whose blocks are marked.
    """
    rows, cells = _cells([{label: s.kl for label, s in row.items()} for row in scores])
    positive = [value for line in cells for value in line if value is not None and value > 0]
    # Three powers of ten below the largest: what is smaller does not decide anything.
    high = max(positive, default=1.0)
    labels = [{block.label} for block in layout.blocks] if layout else []
    return Grid(
        rows=rows,
        cells=cells,
        chosen=_chosen(rows, labels, len(scores)),
        scale="log",
        low=max(min(positive, default=1e-3), high / 1000),
        high=high,
        unit="KL, nats per token, with this one block replaced",
    )


def error_grid(errors: Iterable[Mapping[str, LocalError]], layout: Layout | None = None) -> Grid:
    """Returns the heat map of local errors.

    Args:
        errors: The errors of each layer's variants, by name.
        layout: The layout whose variants are marked.
    """
    layers = list(errors)
    rows, cells = _cells([{name: e.value for name, e in layer.items()} for layer in layers])
    labels = []
    for layer, block in zip(layers, layout.blocks if layout else (), strict=bool(layout)):
        coupled = f"ffn/{block.attention.label}/{block.ffn.label}"
        own = f"ffn/{layout.shape.parent_block.attention.label}/{block.ffn.label}" if layout else ""
        labels.append({f"attention/{block.attention.label}", coupled if coupled in layer else own})
    return Grid(
        rows=rows,
        cells=cells,
        chosen=_chosen(rows, labels, len(layers)),
        scale="linear",
        low=0.0,
        high=1.0,
        unit="share of the output's power that is missed; 1 is no sublayer at all",
    )


def stages(errors: Iterable[Mapping[str, LocalError]]) -> dict[str, float]:
    """Returns the median local error before the fit, after it and after distillation.

    Variants that need no fit, the parent's own and none at all, are not counted.
    """
    found = [e for layer in errors for e in layer.values() if e.before > 0 and e.fitted != 1.0]
    values: dict[str, list[float]] = {
        "initialised": [e.before for e in found],
        "fitted": [e.fitted for e in found],
        "distilled": [e.distilled for e in found if e.distilled is not None],
    }
    return {stage: median(column) for stage, column in values.items() if column}


def _cells(layers: list[dict[str, float]]) -> tuple[tuple[str, ...], Cells]:
    rows = tuple(dict.fromkeys(name for layer in layers for name in layer))
    return rows, tuple(tuple(layer.get(name) for layer in layers) for name in rows)


def _chosen(
    rows: tuple[str, ...], labels: list[set[str]], layers: int
) -> tuple[frozenset[int], ...]:
    at = {name: row for row, name in enumerate(rows)}
    if not labels:
        return (frozenset(),) * layers
    return tuple(frozenset(at[name] for name in names if name in at) for names in labels)
