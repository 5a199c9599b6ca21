"""Which layouts to measure, so that the costs of their sublayers can be identified."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search_space import Block, Layout, SearchSpace

CONCENTRATION = 0.4  # of the Dirichlet distribution: well below 1, so that few options dominate
NEIGHBOURS = 3


def sublayers(block: Block) -> list[str]:
    """Returns the labels of the attention and the FFN of a block, except those that are "none"."""
    attention, ffn = block.attention, block.ffn
    labels = [f"{attention.label}+none"] if attention.kind != "none" else []
    return labels + ([f"none+{ffn.label}"] if ffn.kind != "none" else [])


def options_of(space: SearchSpace) -> tuple[str, ...]:
    """Returns the labels of every attention and FFN of a space, as blocks of one sublayer."""
    rows = [a.label for row in space.attentions for a in row if a.kind != "none"]
    columns = [f.label for row in space.ffns for f in row if f.kind != "none"]
    return (
        *(f"{label}+none" for label in dict.fromkeys(rows)),
        *(f"none+{label}" for label in dict.fromkeys(columns)),
    )


def counts(layouts: Sequence[Layout], options: Sequence[str]) -> np.ndarray:
    """Returns how often each layout has each option, with a column of ones in front."""
    at = {option: column + 1 for column, option in enumerate(options)}
    rows = np.zeros((len(layouts), 1 + len(options)))
    rows[:, 0] = 1.0
    for row, layout in enumerate(layouts):
        for block in layout.blocks:
            for label in sublayers(block):
                rows[row, at[label]] += 1
    return rows


def candidates(space: SearchSpace, count: int, rng: np.random.Generator) -> list[Layout]:
    """Returns random layouts in which some options are frequent and others are rare.

    Layers that draw their blocks uniformly give layouts that are all alike: each option occurs
    in about the same number of layers. So each layout first draws how frequent its options are.

    Each has a layer with a KV cache, where the space allows one: without any, torch recomputes
    the prompt for every token and llama.cpp refuses to run, so that costs are not additive.
    """
    return [
        _with_cache(_random_layout(space, rng, CONCENTRATION), rng, space) for _ in range(count)
    ]


def _with_cache(layout: Layout, rng: np.random.Generator, space: SearchSpace) -> Layout:
    if any(block.attention.kind == "gqa" for block in layout.blocks):
        return layout
    pairs = [
        (layer, attention)
        for layer, row in enumerate(space.attentions)
        for attention in row
        if attention.kind == "gqa"
    ]
    if not pairs:
        return layout
    layer, attention = pairs[rng.integers(len(pairs))]
    return layout.replace(layer, Block(attention, layout.blocks[layer].ffn))


def uniform_layouts(space: SearchSpace, count: int, rng: np.random.Generator) -> list[Layout]:
    """Returns layouts whose layers draw their blocks uniformly."""
    layouts = []
    for _ in range(count):
        rows = (space.blocks(layer) for layer in range(space.shape.layers))
        layouts.append(Layout(space.shape, tuple(row[rng.integers(len(row))] for row in rows)))
    return layouts


def _random_layout(space: SearchSpace, rng: np.random.Generator, concentration: float) -> Layout:
    drawn = []
    for rows in (space.attentions, space.ffns):
        labels = list(dict.fromkeys(choice.label for row in rows for choice in row))
        share = rng.dirichlet([concentration] * len(labels)) + 1e-9
        weight = dict(zip(labels, share, strict=True))
        column = []
        for row in rows:
            odds = np.array([weight[choice.label] for choice in row])
            column.append(row[rng.choice(len(row), p=odds / odds.sum())])
        drawn.append(column)
    return Layout(space.shape, tuple(Block(a, f) for a, f in zip(*drawn, strict=True)))


def spread_out(pool: np.ndarray, chosen: Sequence[int], count: int) -> list[int]:
    """Returns rows of a pool to measure in addition to the chosen ones.

    Half are D-optimal (Fedorov 1972): each makes the determinant of the information matrix as
    large as one row can, which makes the costs as certain as the number of rows allows. The
    others are as far as possible from all before them, to reveal departures from additivity.

    Args:
        pool: One row of `counts` per candidate.
        chosen: Rows that are measured in any case.
        count: How many to add.
    """
    added: list[int] = []
    for step in range(count):
        taken = [*chosen, *added]
        gain = _leverage(pool, taken) if step % 2 == 0 else _distance(pool, taken).min(1)
        gain[taken] = -1.0
        added.append(int(gain.argmax()))
    return added


def farthest(pool: np.ndarray, chosen: Sequence[int]) -> int:
    """Returns the row of a pool that is farthest from all chosen ones."""
    return int(_distance(pool, chosen).min(1).argmax())


def where_worst(
    pool: np.ndarray, chosen: Sequence[int], errors: np.ndarray, count: int
) -> list[int]:
    """Returns rows of a pool near the measured ones that are predicted worst, yet unlike them.

    Args:
        pool: One row of `counts` per candidate.
        chosen: Rows that were measured.
        errors: Relative error of the prediction of each.
        count: How many to add.
    """
    distance = _distance(pool, chosen)
    near = np.argsort(distance, axis=1)[:, :NEIGHBOURS]
    weight = 1.0 / (np.take_along_axis(distance, near, 1) + 1e-6)
    expected = (weight * np.abs(errors)[near]).sum(1) / weight.sum(1)
    added: list[int] = []
    for _ in range(count):
        taken = [*chosen, *added]
        gain = expected * _distance(pool, taken).min(1)
        gain[taken] = -1.0
        added.append(int(gain.argmax()))
    return added


def _leverage(pool: np.ndarray, taken: Sequence[int]) -> np.ndarray:
    """Returns x' (X'X)^-1 x of every row x, X being the rows taken."""
    rows = pool[list(taken)]
    scale = np.trace(pool.T @ pool) / len(pool)
    information = rows.T @ rows + 1e-6 * scale * np.eye(pool.shape[1])
    return np.einsum("ij,ij->i", pool, np.linalg.solve(information, pool.T).T)


def _distance(pool: np.ndarray, taken: Sequence[int]) -> np.ndarray:
    differences = pool[:, None, :] - pool[None, list(taken), :]
    return np.sqrt((differences**2).sum(-1))
