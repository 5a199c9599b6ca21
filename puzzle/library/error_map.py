"""Local errors of a library as a heat map, and their medians."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median

from puzzle.library.local_error import LocalError
from puzzle.plotting.heat_map import HeatMap, cells_by_name, rows_named
from search_space import Layout


def error_map(errors: Iterable[Mapping[str, LocalError]], layout: Layout | None = None) -> HeatMap:
    """Returns the heat map of local errors.

    Args:
        errors: The errors of each layer's variants, by name.
        layout: The layout whose variants are marked.
    """
    layers = list(errors)
    rows, cells = cells_by_name([{name: e.value for name, e in layer.items()} for layer in layers])
    names = []
    # The blocks of a fused layout are not those of the layers that errors are known of.
    chosen = zip(layers, layout.blocks, layout.shape.parent_blocks, strict=True) if layout else ()
    for layer, block, parent in chosen:
        coupled = f"ffn/{block.attention.label}/{block.ffn.label}"
        own = f"ffn/{parent.attention.label}/{block.ffn.label}"
        names.append({f"attention/{block.attention.label}", coupled if coupled in layer else own})
    return HeatMap(
        title="Local errors by layer and variant",
        rows=rows,
        cells=cells,
        chosen=rows_named(rows, names, len(layers)),
        scale="linear",
        low=0.0,
        high=1.0,
        unit="share of the output's power that is missed; 1 is no sublayer at all",
    )


def median_errors(errors: Iterable[Mapping[str, LocalError]]) -> dict[str, float]:
    """Returns the median local error before the fit, after it and after distillation.

    Variants that need no fit, the parent's own and none at all, are not counted.
    """
    fits = [e for layer in errors for e in layer.values() if e.before > 0 and e.fitted != 1.0]
    values: dict[str, list[float]] = {
        "initialised": [e.before for e in fits],
        "fitted": [e.fitted for e in fits],
        "distilled": [e.distilled for e in fits if e.distilled is not None],
    }
    return {stage: median(column) for stage, column in values.items() if column}
