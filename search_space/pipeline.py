"""Identity layers: layers without attention and FFN that even out the stages of a pipeline.

Engines and trainers that split a model by number of layers put equally many on every stage. Where
layers differ in size, layers that do nothing fill up the stages with the large ones; Ultra 253B is
published with 81 of them (arXiv 2505.00949, section 5.2.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search_space import counting
from search_space.blocks import FFN, Attention, Block
from search_space.fusion import with_blocks
from search_space.layout import Layout

IDENTITY = Block(Attention("none"), FFN("none"))


def identity_layers(layout: Layout) -> tuple[int, ...]:
    """Returns the layers that have neither attention nor FFN."""
    return tuple(layer for layer, block in enumerate(layout.blocks) if block == IDENTITY)


def remove_identity_layers(layout: Layout) -> Layout:
    """Returns the layout without the layers that do nothing; it computes the same.

    Raises:
        ValueError: No layer is left.

    Example:
        >>> from search_space import ModelShape
        >>> shape = ModelShape(layers=2, hidden=8, heads=2, head_dim=4, kv_heads=2,
        ...                    ffn_width=16, vocab=32)
        >>> padded = insert_identity_layers(Layout.parent(shape), [0, 2])
        >>> [block.label for block in padded.blocks]
        ['none+none', 'gqa2+gated16', 'none+none', 'gqa2+gated16']
        >>> remove_identity_layers(padded) == Layout.parent(shape)
        True
    """
    blocks = [block for block in layout.blocks if block != IDENTITY]
    if not blocks:
        raise ValueError("all layers are identity layers; a layout keeps at least one other")
    return with_blocks(layout.shape, blocks)


def insert_identity_layers(layout: Layout, positions: Iterable[int]) -> Layout:
    """Returns the layout with identity layers added.

    Args:
        layout: The layout to pad.
        positions: Where they are, counted in the padded layout (`identity_layers` of it).

    Raises:
        ValueError: A position occurs twice or is out of range.
    """
    wanted = list(positions)
    total = layout.shape.layers + len(wanted)
    if len(set(wanted)) != len(wanted) or not all(0 <= at < total for at in wanted):
        raise ValueError(
            f"identity layers at {wanted}; allowed: different layers from 0 to {total - 1}"
        )
    chosen, rest = set(wanted), iter(layout.blocks)
    return with_blocks(
        layout.shape, [IDENTITY if i in chosen else next(rest) for i in range(total)]
    )


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A layout cut into stages of equally many layers.

    Args:
        layout: The padded layout.
        stages: Number of stages.
    """

    layout: Layout
    stages: int

    def __post_init__(self) -> None:
        if self.stages < 1 or self.layout.shape.layers % self.stages:
            layers = self.layout.shape.layers
            divisors = [n for n in range(1, layers + 1) if layers % n == 0]
            raise ValueError(
                f"{layers} layers do not divide into {self.stages} equal stages; allowed: "
                f"{divisors}, or balance_pipeline(layout, {self.stages})"
            )

    def stage_parameters(self) -> tuple[int, ...]:
        """Returns the parameters of each stage's layers, embedding and head left out."""
        size = self.layout.shape.layers // self.stages
        loads = [counting.block_parameters(self.layout.shape, b) for b in self.layout.blocks]
        return tuple(sum(loads[at : at + size]) for at in range(0, len(loads), size))

    @property
    def imbalance(self) -> float:
        """The largest stage over the mean stage, in parameters; 1 is even."""
        loads = self.stage_parameters()
        return max(loads) * len(loads) / sum(loads)


def balance_pipeline(layout: Layout, stages: int) -> Pipeline:
    """Returns the layout padded so that equal stages have the least largest parameter count.

    The layers are cut into contiguous stages such that the largest has as few parameters as it
    can; identity layers at the front of each stage bring all to the same number of layers.

    Args:
        layout: A layout; identity layers that it has are taken out first.
        stages: Number of stages.

    Raises:
        ValueError: There are fewer layers than stages.
    """
    active = remove_identity_layers(layout)
    loads = [counting.block_parameters(active.shape, block) for block in active.blocks]
    if not 1 <= stages <= len(loads):
        raise ValueError(f"{stages} stages for {len(loads)} layers; allowed: 1 to {len(loads)}")
    cuts = _even_cuts(loads, stages)
    size = max(end - start for start, end in cuts)
    blocks: list[Block] = []
    for start, end in cuts:
        blocks += [IDENTITY] * (size - (end - start)) + list(active.blocks[start:end])
    return Pipeline(with_blocks(layout.shape, blocks), stages)


def _even_cuts(loads: Sequence[int], stages: int) -> list[tuple[int, int]]:
    """Returns (start, end) of contiguous parts with the least largest sum (linear partition)."""
    sums = [0]
    for load in loads:
        sums.append(sums[-1] + load)
    # best[k][n]: (largest part, start of the last part) of the first n loads in k + 1 parts.
    best = [[(sums[n], 0) for n in range(len(loads) + 1)]]
    for k in range(1, stages):
        best.append(
            [
                min((max(best[k - 1][m][0], sums[n] - sums[m]), m) for m in range(k, n))
                if n > k
                else (sums[n], 0)
                for n in range(len(loads) + 1)
            ]
        )
    cuts, end = [], len(loads)
    for k in reversed(range(stages)):
        start = best[k][end][1]
        cuts.append((start, end))
        end = start
    return cuts[::-1]
