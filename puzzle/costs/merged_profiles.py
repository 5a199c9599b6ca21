"""Several profiles of one device and scenario as one that has the blocks of all of them."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puzzle.costs.counted import COUNTED
from puzzle.costs.profile import Profile
from puzzle.errors import CostModelError

__all__ = ["merge_profiles"]

# Share by which measurements of one block may differ without being mentioned.
MOST_APART = 0.1
logger = logging.getLogger(__name__)
Costs = Mapping[str, float]


def merge_profiles(profiles: Sequence[Profile]) -> Profile:
    """Returns one profile with the blocks of several of the same parent, device and scenario.

    A block that several have gets the medians of its costs; a warning says how many are more than
    a tenth apart, and which are farthest. What is counted has to be equal.

    Args:
        profiles: Two or more: of spaces that were measured one after the other, or by others.

    Raises:
        CostModelError: There is none, or one is of another device, versions, scenario or parent,
            or has other resources; the message names what differs.

    Example:
        >>> from puzzle.costs import Roofline
        >>> from puzzle.limits.scenario import Scenario
        >>> from search_space import ModelShape, SearchSpace
        >>> shape = ModelShape(layers=2, hidden=64, heads=4, head_dim=16, kv_heads=2,
        ...                    ffn_width=256, vocab=100)
        >>> costs, device = Roofline("h100-sxm", shape), {"name": "h100-sxm"}
        >>> spaces = [SearchSpace.uniform(shape, attentions=["gqa1"]),
        ...           SearchSpace.uniform(shape, ffns=["gated128"])]
        >>> parts = [Profile.take(costs, s, Scenario(), device=device) for s in spaces]
        >>> len(merge_profiles(parts).rows[0])
        3
    """
    if not profiles:
        raise CostModelError("no profiles to merge; give two or more")
    first, *others = profiles
    for other in others:
        _require_alike(first, other)
    rows: list[dict[str, Costs]] = []
    layers, apart = [], _Apart()
    for layer in range(first.shape.layers):
        row = _row([each.rows[each.layers[layer]] for each in profiles], layer, apart)
        if row not in rows:
            rows.append(row)
        layers.append(rows.index(row))
    fixed = _median([each.fixed for each in profiles], "the fixed cost", apart)
    if apart.blocks:
        logger.warning(
            "%d blocks of layers cost more than %.0f %% more in one profile than in another, %s "
            "up to %.0f %%; the medians are used",
            apart.blocks,
            100 * MOST_APART,
            apart.what,
            100 * apart.most,
        )
    return Profile(
        device=first.device,
        versions=first.versions,
        scenario=first.scenario,
        shape=first.shape,
        resources=first.resources,
        fixed=fixed,
        rows=tuple(rows),
        layers=tuple(layers),
    )


@dataclass(slots=True)
class _Apart:
    """How many costs are far from each other, and which are farthest."""

    blocks: int = 0
    most: float = 0.0
    what: str = ""

    def note(self, share: float, what: str) -> None:
        """Counts a cost by how much larger the largest is than the smallest."""
        if share > MOST_APART:
            self.blocks += 1
        if share > self.most:
            self.most, self.what = share, what


def _require_alike(first: Profile, other: Profile) -> None:
    parts: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        ("device", first.device, other.device),
        ("versions", first.versions, other.versions),
        ("scenario", first.scenario.to_dict(), other.scenario.to_dict()),
        ("shape", first.shape.to_dict(), other.shape.to_dict()),
        ("resource", first.resources, other.resources),
    ]
    # Clocks of a GPU are those of the moment.
    differences = [
        f"{part} {key}: {own.get(key)!r} and {theirs.get(key)!r}"
        for part, own, theirs in parts
        for key in sorted({*own, *theirs} - ({"clocks"} if part == "device" else set()))
        if own.get(key) != theirs.get(key)
    ]
    if differences:
        raise CostModelError(
            f"profiles of {first.name} and {other.name} cannot be merged, which differ in "
            f"{'; '.join(differences)}. Merge those of one device, versions, scenario and parent, "
            "and keep the others in files of their own"
        )


def _row(rows: Sequence[Mapping[str, Costs]], layer: int, apart: _Apart) -> dict[str, Costs]:
    labels = list(dict.fromkeys(label for row in rows for label in row))
    return {
        label: _median(
            [row[label] for row in rows if label in row], f"{label} of layer {layer}", apart
        )
        for label in labels
    }


def _median(costs: Sequence[Costs], what: str, apart: _Apart) -> Costs:
    if len(costs) == 1:
        return costs[0]
    medians, share = {}, 0.0
    for name in costs[0]:
        values = [cost[name] for cost in costs]
        if name in COUNTED and not all(math.isclose(each, values[0]) for each in values):
            raise CostModelError(
                f"profiles cannot be merged: {name} of {what} is {values[0]:g} in one and "
                f"{next(v for v in values if not math.isclose(v, values[0])):g} in another; it is "
                "counted, so that they are of different parents or formats"
            )
        medians[name] = statistics.median(values)
        if max(values) > 0 and math.isfinite(max(values)):
            share = max(share, max(values) / max(min(values), 1e-300) - 1)
    apart.note(share, what)
    return medians
