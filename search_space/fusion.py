"""FFN fusion: a run of attention-free layers becomes one layer with the FFNs side by side.

Where attention was removed, FFNs follow each other. Computed from the same input instead,
they are one FFN as wide as all of them together (FFN Fusion, arXiv 2503.18908, theorem 3.1):
fewer layers to go through one after the other, the same parameters but for the norms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from search_space.blocks import FFN, Attention, Block, check_keys, reading_values, size_of
from search_space.layout import Layout
from search_space.shape import ModelShape


@dataclass(frozen=True, slots=True)
class FusedRun:
    """Consecutive layers that are fused, and the FFN width of each.

    Args:
        first: The first layer, counted before fusion.
        widths: FFN channels of each layer of the run, two or more.

    Raises:
        ValueError: `first` is negative, or there are fewer than two widths.

    Example:
        >>> run = FusedRun(66, (512, 256))
        >>> run.last, run.block.label
        (67, 'none+gated768')
    """

    first: int
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "first", size_of("fused run", "first", self.first, least=0))
        if len(self.widths) < 2:
            raise ValueError(f"a run of {len(self.widths)} layers; allowed: 2 or more")
        widths = tuple(size_of("fused run", "width", width) for width in self.widths)
        object.__setattr__(self, "widths", widths)

    @property
    def last(self) -> int:
        """The last layer, counted before fusion."""
        return self.first + len(self.widths) - 1

    @property
    def width(self) -> int:
        """Channels of the fused FFN."""
        return sum(self.widths)

    @property
    def block(self) -> Block:
        """The block of the fused layer."""
        return Block(Attention("none"), FFN("gated", self.width))

    @property
    def members(self) -> tuple[Block, ...]:
        """The blocks that the fused layer stands for."""
        return tuple(Block(Attention("none"), FFN("gated", width)) for width in self.widths)


@dataclass(frozen=True, slots=True)
class Fusion:
    """Which layers of a layout are fused; `apply` fuses them and `undo` takes them apart.

    Args:
        runs: Runs of layers, in order and apart.

    Raises:
        ValueError: Two runs overlap or are out of order.

    Example:
        >>> shape = ModelShape(layers=3, hidden=8, heads=2, head_dim=4, kv_heads=2,
        ...                    ffn_width=16, vocab=32)
        >>> labels = ["gqa2+gated16", "none+gated16", "none+gated8"]
        >>> layout = Layout(shape, tuple(map(Block.from_label, labels)))
        >>> fusion = Fusion.of(layout, [(1, 2)])
        >>> [block.label for block in fusion.apply(layout).blocks]
        ['gqa2+gated16', 'none+gated24']
        >>> fusion.undo(fusion.apply(layout)) == layout
        True
    """

    runs: tuple[FusedRun, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(self.runs))
        for one, other in pairwise(self.runs):
            if other.first <= one.last:
                raise ValueError(
                    f"the runs {_span(one)} and {_span(other)} overlap or are out of order; "
                    "give disjoint runs from the first layer to the last"
                )

    @classmethod
    def of(cls, layout: Layout, runs: Iterable[tuple[int, int]]) -> Fusion:
        """Returns the fusion of the named layers of a layout.

        Args:
            layout: The layout before fusion.
            runs: (first layer, last layer) of each run, the last one included.

        Raises:
            ValueError: A run is out of range, has fewer than two layers, overlaps another, or
                contains a layer that has attention or no gated FFN.
        """
        fused = []
        for first, last in sorted(runs):
            if not 0 <= first <= last < layout.shape.layers:
                raise ValueError(
                    f"run [{first}, {last}] of a layout with {layout.shape.layers} layers; "
                    f"allowed: 0 <= first < last <= {layout.shape.layers - 1}"
                )
            members = range(first, last + 1)
            fused.append(FusedRun(first, tuple(_member_width(layout, layer) for layer in members)))
        return cls(tuple(fused))

    @property
    def positions(self) -> tuple[int, ...]:
        """The layer that each run becomes, counted after fusion."""
        positions, removed = [], 0
        for run in self.runs:
            positions.append(run.first - removed)
            removed += len(run.widths) - 1
        return tuple(positions)

    @property
    def layers_saved(self) -> int:
        """How many layers fewer the fused layout has."""
        return sum(len(run.widths) - 1 for run in self.runs)

    def apply(self, layout: Layout) -> Layout:
        """Returns the fused layout.

        Raises:
            ValueError: The runs are not those of this layout.
        """
        if Fusion.of(layout, [(run.first, run.last) for run in self.runs]) != self:
            raise ValueError(
                "the FFN widths of the runs are not those of the layout; make the fusion with "
                "Fusion.of(layout, runs)"
            )
        blocks = list(layout.blocks)
        for run in reversed(self.runs):
            blocks[run.first : run.last + 1] = [run.block]
        return with_blocks(layout.shape, blocks)

    def undo(self, fused: Layout) -> Layout:
        """Returns the layout that `apply` made the fused one from.

        Raises:
            ValueError: The layout does not have the fused layers.
        """
        blocks = list(fused.blocks)
        for run, at in reversed(list(zip(self.runs, self.positions, strict=True))):
            if at >= len(blocks) or fused.blocks[at] != run.block:
                there = fused.blocks[at].label if at < len(blocks) else "missing"
                raise ValueError(
                    f"layer {at} of the fused layout is {there}; the run {_span(run)} makes it "
                    f"{run.block.label}"
                )
            blocks[at : at + 1] = run.members
        return with_blocks(fused.shape, blocks)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {"runs": [{"first": run.first, "widths": list(run.widths)} for run in self.runs]}

    @classmethod
    @reading_values("a fusion")
    def from_dict(cls, values: dict[str, Any]) -> Fusion:
        """Returns the fusion that `to_dict` wrote; unknown keys are a ValueError."""
        check_keys("fusion", values, ("runs",))
        for run in values["runs"]:
            check_keys("run", run, ("first", "widths"))
        return cls(tuple(FusedRun(run["first"], tuple(run["widths"])) for run in values["runs"]))


def fusible_runs(layout: Layout, *, keep_last: bool = False) -> tuple[tuple[int, int], ...]:
    """Returns (first, last) of every longest run of layers that could be fused.

    Args:
        layout: A layout; layers without attention whose FFN is gated can be fused.
        keep_last: Leave out the last layer of each run, which the paper keeps as it is because
            fusing it costs the most.
    """
    runs, first = [], None
    for layer in range(layout.shape.layers + 1):
        inside = layer < layout.shape.layers and _obstacle(layout.blocks[layer]) is None
        if inside and first is None:
            first = layer
        elif not inside and first is not None:
            last = layer - 1 - keep_last
            if last > first:
                runs.append((first, last))
            first = None
    return tuple(runs)


def plan_fusion(
    layout: Layout,
    *,
    keep_last: bool = True,
    max_width: int | None = None,
    dependency: Sequence[Sequence[float]] | None = None,
    max_dependency: float = 0.1,
) -> Fusion:
    """Returns a fusion that leaves as few layers as the limits allow.

    Args:
        layout: The layout before fusion.
        keep_last: Keep the last layer of each run of attention-free layers as it is.
        max_width: Most channels of a fused FFN; see `ffn_width_within`.
        dependency: How much layer j depends on layer i, at [i][j] for i < j
            (`puzzle.fusion.block_dependency`); without it, only the layout counts.
        max_dependency: Largest dependency between two layers of a run.

    Raises:
        ValueError: The matrix does not have a row and a column per layer, or lacks a value that
            is needed.
    """
    _check_matrix(layout, dependency)
    runs = []
    for first, last in fusible_runs(layout, keep_last=keep_last):
        chunk = [first]
        # Every part of an allowed run is allowed, so that taking the longest each time is best.
        for layer in range(first + 1, last + 1):
            widths = [_member_width(layout, member) for member in (*chunk, layer)]
            fits = max_width is None or sum(widths) <= max_width
            if fits and _independent(dependency, chunk, layer, max_dependency):
                chunk.append(layer)
            else:
                runs.append(chunk)
                chunk = [layer]
        runs.append(chunk)
    return Fusion.of(layout, [(chunk[0], chunk[-1]) for chunk in runs if len(chunk) > 1])


def candidate_runs(
    layout: Layout,
    *,
    keep_last: bool = True,
    max_width: int | None = None,
    max_layers: int | None = None,
    dependency: Sequence[Sequence[float]] | None = None,
    max_dependency: float = 0.1,
) -> Iterator[FusedRun]:
    """Yields every run that a search may choose between, short ones first at each layer.

    Args:
        layout: The layout before fusion.
        keep_last: As in `plan_fusion`.
        max_width: As in `plan_fusion`.
        max_layers: Most layers of a run.
        dependency: As in `plan_fusion`.
        max_dependency: As in `plan_fusion`.

    Raises:
        ValueError: As `plan_fusion`.
    """
    _check_matrix(layout, dependency)
    for start, last in fusible_runs(layout, keep_last=keep_last):
        for first in range(start, last):
            widths = [_member_width(layout, first)]
            for layer in range(first + 1, last + 1):
                widths.append(_member_width(layout, layer))
                if (
                    (max_width is not None and sum(widths) > max_width)
                    or (max_layers is not None and len(widths) > max_layers)
                    or not _independent(dependency, range(first, layer), layer, max_dependency)
                ):
                    break
                yield FusedRun(first, tuple(widths))


def ffn_width_within(
    shape: ModelShape, budget: float, *, bytes_per_parameter: float = 2, devices: int = 1
) -> int:
    """Returns the widest gated FFN whose weights fit a budget of bytes on each device.

    Args:
        shape: The sizes of the model.
        budget: Bytes on each device.
        bytes_per_parameter: 2 for BF16, 1 for FP8.
        devices: Over how many devices the FFN is split.

    Raises:
        ValueError: Not even one channel fits.
    """
    width = int(budget * devices / (3 * shape.hidden * bytes_per_parameter))
    if width < 1:
        raise ValueError(
            f"{budget:g} bytes on {devices} devices hold no channel of {3 * shape.hidden} "
            f"parameters; allowed: {3 * shape.hidden * bytes_per_parameter / devices:g} or more"
        )
    return width


def even_widths(total: int, layers: int, *, multiple: int = 256) -> tuple[int, ...]:
    """Returns widths as equal as multiples allow that add up to a total, the wider ones first.

    Raises:
        ValueError: The total is not a multiple, or too small for that many layers.
    """
    units, rest = divmod(total, multiple)
    if rest or units < layers or layers < 1:
        raise ValueError(
            f"{total} channels cannot be split over {layers} layers in multiples of {multiple}"
        )
    low, wider = divmod(units, layers)
    return tuple((low + (member < wider)) * multiple for member in range(layers))


def with_blocks(shape: ModelShape, blocks: Sequence[Block]) -> Layout:
    """Returns a layout of as many layers as there are blocks, its other sizes unchanged."""
    if len(blocks) != shape.layers:  # which are no longer the layers that a parent had blocks of
        shape = replace(shape, layers=len(blocks), blocks=None, windows=None)
    return Layout(shape, tuple(blocks))


def _span(run: FusedRun) -> str:
    return f"[{run.first}, {run.last}]"


def _obstacle(block: Block) -> str | None:
    """Returns what keeps a layer from being fused."""
    if block.attention.kind != "none":
        return f"has {block.attention.label} attention"
    if block.ffn.kind == "none":
        return "has no FFN; remove_identity_layers() removes such layers"
    if block.ffn.weights is not None:
        return f"has weights in {block.ffn.weights}; fuse first, and choose formats then"
    return None if block.ffn.kind == "gated" else f"has a {block.ffn.kind} FFN"


def _member_width(layout: Layout, layer: int) -> int:
    block = layout.blocks[layer]
    obstacle = _obstacle(block)
    if obstacle or block.ffn.width is None:
        raise ValueError(
            f"layer {layer} {obstacle}; allowed in a run: layers without attention whose FFN is "
            f"gated, here {[list(run) for run in fusible_runs(layout)]}"
        )
    return block.ffn.width


def _check_matrix(layout: Layout, dependency: Sequence[Sequence[float]] | None) -> None:
    if dependency is None:
        return
    sizes = {len(dependency), *(len(row) for row in dependency)}
    if sizes != {layout.shape.layers}:
        raise ValueError(
            f"a dependency matrix of {len(dependency)} rows for {layout.shape.layers} layers; "
            "give one row and one column per layer"
        )


def _independent(
    dependency: Sequence[Sequence[float]] | None,
    members: Iterable[int],
    layer: int,
    limit: float,
) -> bool:
    if dependency is None:
        return True
    values = [float(dependency[member][layer]) for member in members]
    if any(value != value for value in values):
        raise ValueError(
            f"the dependency of layer {layer} on an earlier layer of its run was not measured; "
            "measure it for all attention-free layers"
        )
    return max(values) <= limit
