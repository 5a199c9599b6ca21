"""Scores: how far each block moves the whole model's output, with method and standard error."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from puzzle.plotting.heat_map import HeatMap, cells_by_name, rows_named
from puzzle.storage.json_files import interpreting
from puzzle.storage.json_values import as_list, as_object, field_values
from search_space import Layout

if TYPE_CHECKING:  # torch takes seconds to import, and scores in a file need none of it
    import pandas
    from torch import Tensor

# Neighbouring tokens share their surroundings, so a standard error counts stretches of this many
# tokens as one observation.
STRETCH = 64
# Scores may be as large as floats are, as "never" is sometimes written; a drawing multiplies them.
MOST_DRAWN = 1e100


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One block's score.

    Args:
        kl: KL(parent || parent with this one block), nats per token; for a task score, how much
            the task's number falls; for a cosine score, that distance.
        error: Standard error of `kl` over the text (and the probes) it was estimated from.
        method: "exact", "fisher", "calibrated", "around", "task" or "cosine".
    """

    kl: float
    error: float = 0.0
    method: str = "exact"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Score:
        """Returns the score that `to_dict` wrote.

        Raises:
            DataError: A value is missing, or of another kind.
        """
        return cls(**field_values(cls, values))


@dataclass(frozen=True, slots=True, repr=False)
class Scores(Sequence[Mapping[str, Score]]):
    """The scores of every block of a space: one mapping from block label to `Score` per layer.

    Example:
        >>> scores = Scores(({"gqa2+gated8": Score(kl=0.0), "none+none": Score(kl=0.5)},))
        >>> scores[0]["none+none"].kl, scores.kl(0, "none+none")
        (0.5, 0.5)
    """

    layers: tuple[Mapping[str, Score], ...]

    def __getitem__(self, layer: Any) -> Any:
        return self.layers[layer]

    def __len__(self) -> int:
        return len(self.layers)

    def kl(self, layer: int, label: str) -> float:
        """Returns the score of one block in nats per token."""
        return self.layers[layer][label].kl

    def total(self, layout: Layout) -> float:
        """Returns the sum of a layout's scores, in nats per token."""
        return math.fsum(self.kl(layer, b.label) for layer, b in enumerate(layout.blocks))

    def items(self) -> Iterator[tuple[int, str, Score]]:
        """Yields (layer, block label, score)."""
        for layer, row in enumerate(self.layers):
            for label, score in row.items():
                yield layer, label, score

    def replaced(self, changes: Mapping[tuple[int, str], Score]) -> Scores:
        """Returns a copy with other scores for some (layer, label)."""
        rows = (
            {label: changes.get((layer, label), score) for label, score in row.items()}
            for layer, row in enumerate(self.layers)
        )
        return Scores(tuple(rows))

    def methods(self) -> dict[str, int]:
        """Returns how many scores each method gave."""
        counts: dict[str, int] = {}
        for _, _, score in self.items():
            counts[score.method] = counts.get(score.method, 0) + 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"layers": [{k: s.to_dict() for k, s in row.items()} for row in self.layers]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scores:
        """Returns the scores that `to_dict` wrote.

        Raises:
            DataError: A value is missing, or of another kind.
        """
        with interpreting("the values", "scores"):
            rows = as_list(values["layers"], "layers")
            return cls(
                tuple(
                    {label: Score.from_dict(s) for label, s in as_object(row, "a layer").items()}
                    for row in rows
                )
            )

    def to_dataframe(self) -> pandas.DataFrame:
        """Returns a pandas DataFrame: layer, block, kl, error and method, one row per block."""
        import pandas

        return pandas.DataFrame(
            {"layer": layer, "block": label, **score.to_dict()}
            for layer, label, score in self.items()
        )

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in sorted(self.methods().items()))
        return f"Scores({len(self.layers)} layers: {counts})"

    def heat_map(self, layout: Layout | None = None) -> HeatMap:
        """Returns the heat map of the scores.

        Args:
            layout: The layout whose blocks are marked.
        """
        rows, cells = cells_by_name([{k: s.kl for k, s in row.items()} for row in self.layers])
        positive = [value for line in cells for value in line if value is not None and value > 0]
        # Three powers of ten below the largest: smaller scores do not affect the choice.
        high = min(max(max(positive, default=1.0), 1 / MOST_DRAWN), MOST_DRAWN)
        names = [{block.label} for block in layout.blocks] if layout else []
        notes = {
            (rows.index(label), layer): f"{score.method}, standard error {score.error:.2g}"
            for layer, label, score in self.items()
        }
        return HeatMap(
            title="Scores by layer and block",
            rows=rows,
            cells=cells,
            chosen=rows_named(rows, names, len(self.layers)),
            scale="log",
            low=max(min(positive, default=1e-3), high / 1000),
            high=high,
            unit="KL, nats per token, with this one block replaced",
            notes=notes,
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>{self.heat_map().svg()}"


def mean_and_error(values_BL: Tensor) -> tuple[float, float]:
    """Returns the mean of per-token values and its standard error over stretches of tokens.

    Args:
        values_BL: One value per token, (windows, length).
    """
    return combine(stretch_means(values_BL))


def stretch_means(values_BL: Tensor) -> list[float]:
    """Returns the means of stretches of `STRETCH` tokens (or of a whole shorter window)."""
    length = values_BL.shape[1]
    pieces = max(1, length // STRETCH)
    kept = values_BL[:, : pieces * (length // pieces)].double()
    means: list[float] = kept.reshape(kept.shape[0] * pieces, -1).mean(1).tolist()
    return means


def combine(means: Iterable[float]) -> tuple[float, float]:
    """Returns the mean of observations and its standard error; 0 where there is only one."""
    values = list(means)
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
