"""What building a library takes: the sums and solutions of every fit, counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from puzzle.estimates import Estimate, Sizes
from puzzle.library.boundary import BATCH
from puzzle.library.layer_streams import KEPT
from puzzle.library.settings import LibraryConfig
from search_space import FFN, Attention, Block, ModelShape, counting

# Ridges that a fit tries as a rule, from the one in the middle.
TRIED = 3


@dataclass(frozen=True, slots=True)
class _Fit:
    """Sums over the fit text for one set of features, and the variants solved from them.

    Args:
        features: Inputs of the widest map.
        passes: Passes over the layer that the sums take.
        solved: Inputs of each map solved.
        stored: Weights stored.
        channels: Channel numbers stored, four bytes each.
    """

    features: int
    passes: float
    solved: tuple[int, ...]
    stored: int
    channels: int = 0


def library_work(
    rows: Sequence[tuple[Block, ...]], config: LibraryConfig, sizes: Sizes
) -> Estimate:
    """Returns what the closed-form fits of a library take.

    Args:
        rows: The blocks of each layer.
        config: How variants are fitted.
        sizes: The parent, the text and the machine.
    """
    tokens, shape = sizes.tokens("fit"), sizes.shape
    seconds, alone, stored, variants = 0.0, 0.0, 0.0, 0
    kept = 0.0 if sizes.on_gpu else float(tokens * shape.ffn_width * sizes.weight_bytes)
    kept = kept if kept <= KEPT else 0.0
    for own, row in zip(shape.parent_blocks, rows, strict=True):
        layer = sizes.forward(tokens, [own])
        # The parent's pass; with an executor, workers read boundaries that one process writes.
        seconds, alone = seconds + layer, alone + layer
        for fit in _fits(shape, own, row, config, kept=kept > 0.0):
            seconds += fit.passes * layer + _fit_seconds(sizes, config, fit)
            stored += fit.stored * sizes.weight_bytes + 4.0 * fit.channels
            variants += len(fit.solved) if fit.stored else 0
    fits = fit_memory(sizes, config)
    memory = sizes.used + sizes.layer + kept + fits
    return Estimate(
        name="library",
        work=f"{variants} variants of {shape.layers} layers, {tokens:,} tokens",
        seconds=seconds,
        memory=memory,
        disk=stored,
        alone=alone,
        jobs=shape.layers,
        reads=(2 if sizes.workers else 1) * sizes.weights,
        scratch=sizes.stream("fit") * (shape.layers if sizes.workers else 2),
    )


def fit_memory(sizes: Sizes, config: LibraryConfig) -> float:
    """Returns the bytes of the widest fit, beside the layer.

    Args:
        sizes: The parent, the text and the machine.
        config: How variants are fitted.
    """
    shape = sizes.shape
    widest = max(shape.ffn_width, shape.heads * shape.head_dim)
    square, map_ = 4.0 * widest**2, 4.0 * widest * shape.hidden
    held_out = config.held_out * sizes.tokens("fit")
    held_out *= widest * sizes.weight_bytes + 4.0 * shape.hidden
    batch = 3.0 * BATCH * sizes.data.window * widest * sizes.weight_bytes
    # The sums, a part of them and its factor; the map it starts from and what becomes of it.
    fitted = 3 * square + 6 * map_ + 2 * held_out
    # Before, while the sums are made.
    fitted = max(fitted, square + 2 * map_ + held_out + batch)
    # The inverse in float64, of which a GPU needs a copy while the sums are in the host's memory.
    eliminated = (4 if sizes.on_gpu else 3) * square + 4 * map_ + held_out
    return max(fitted, eliminated) if config.eliminates else fitted


def healing_work(sizes: Sizes, config: LibraryConfig) -> Estimate:
    """Returns what fitting both maps of every layer once more takes."""
    tokens, shape = sizes.tokens("fit"), sizes.shape
    context = shape.heads * shape.head_dim
    maps = (_Fit(width, 1.0, (width,), 0) for width in (context, shape.ffn_width))
    fits = shape.layers * sum(_fit_seconds(sizes, config, each) for each in maps)
    return Estimate(
        name="healing",
        work=f"both maps of {shape.layers} layers, {tokens:,} tokens",
        seconds=fits + 3 * sizes.forward(tokens, sizes.own.blocks),
        memory=sizes.used + sizes.layer + fit_memory(sizes, config),
        disk=sizes.weights,
        reads=2 * sizes.weights,
        scratch=3 * sizes.stream("fit"),
    )


def _fit_seconds(sizes: Sizes, config: LibraryConfig, fit: _Fit) -> float:
    """Returns the seconds of the sums and of a solution for each map and ridge."""
    tokens, outputs = sizes.tokens("fit"), sizes.shape.hidden
    flops = tokens * fit.features * (1.25 * fit.features + 2.0 * outputs)
    for features in fit.solved:
        solved = features**2 * (features / 3.0 + 2.0 * outputs)
        evaluated = 2.0 * config.held_out * tokens * features * outputs
        flops += min(TRIED, len(config.ridges)) * (solved + evaluated)
    if fit.channels and config.eliminates:
        # The inverse in float64, the best map of all channels, and what removals of half change.
        flops += fit.features**2 * (4.0 * fit.features + 4.0 * outputs)
    return flops / sizes.rates.fits


def _fits(
    shape: ModelShape, own: Block, blocks: tuple[Block, ...], config: LibraryConfig, *, kept: bool
) -> Iterator[_Fit]:
    """Yields what is fitted in one layer, the parent's own block of which is given.

    Args:
        shape: The parent's sizes.
        own: Its block.
        blocks: Those that are fitted.
        config: How.
        kept: Whether the features of the parent's FFN are kept of its own pass.
    """
    hidden, context = shape.hidden, counting.query_heads(shape, own.attention) * shape.head_dim
    attentions = dict.fromkeys(block.attention for block in blocks)
    reduced: dict[int | None, list[int]] = {}
    for attention in attentions:
        queries = counting.query_heads(shape, attention) * shape.head_dim
        if attention.kind == "linear":
            yield _Fit(hidden, 0.5, (hidden,), hidden**2)
        elif attention.kind == "gqa" and queries != context:
            reduced.setdefault(attention.window, []).append(queries)
        elif attention.kind == "gqa" and attention != own.attention:
            kv = 2 * (attention.kv_heads or 0) * shape.head_dim
            yield _Fit(context, 1.0, (context,), (context + kv) * hidden)
            # A second promising way of merging the heads, which is not stored.
            yield _Fit(context, 1.0, (context,), 0)
    for widths_left in reduced.values():
        # All numbers of heads share the sums over the text.
        yield _Fit(context, 1.0, tuple(widths_left), sum(widths_left) * hidden)
    groups: dict[Attention, dict[FFN, None]] = {}
    for block in blocks:
        coupled = config.coupled(block.attention)
        groups.setdefault(block.attention if coupled else own.attention, {})[block.ffn] = None
    for attention, ffns in groups.items():
        made = [ffn for ffn in ffns if Block(attention, ffn) != own]
        for ffn in (ffn for ffn in made if ffn.kind == "moe"):
            # Sums and a solution for each expert, on its own tokens.
            width, share = ffn.width or 0, (ffn.top_k or 1) / (ffn.experts or 1)
            number = ffn.experts or 1
            yield _Fit(width, share, (width,) * number, ffn.channels * hidden)
        if own.ffn.kind == "moe":
            continue
        widths = tuple(ffn.width or 0 for ffn in made if ffn.kind == "gated")
        passes = 0.0 if kept and attention == own.attention else 1.0
        yield _Fit(own.ffn.width or hidden, passes, widths, sum(widths) * hidden, sum(widths))
        if any(ffn.kind == "linear" for ffn in made):
            yield _Fit(hidden, 0.5, (hidden,), hidden**2)
