"""The program that chooses a block for each layer, as benchmarks vary its scores and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from search_space import Block
from solvers import ChoiceProblem, Limit

OfBlock = Callable[[int, Block], float]


def choice_problem(
    rows: Sequence[Sequence[Block]],
    score: OfBlock,
    resources: Mapping[str, OfBlock],
    limits: Iterable[Limit],
    *,
    offsets: Mapping[str, float] | None = None,
) -> ChoiceProblem:
    """Returns the program over some blocks.

    Args:
        rows: The blocks of each layer.
        score: Of a layer's block.
        resources: By name, what a layer's block uses.
        limits: On the resources.
        offsets: What is used in any case.
    """
    places = [(layer, block) for layer, row in enumerate(rows) for block in row]
    return ChoiceProblem(
        tuple(tuple(block.label for block in row) for row in rows),
        [float(score(*place)) for place in places],
        {name: [float(used(*place)) for place in places] for name, used in resources.items()},
        offsets=dict(offsets or {}),
        limits=tuple(limits),
    )
