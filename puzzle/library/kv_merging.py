"""Ways to make an attention with fewer KV heads out of the parent's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch

# All subsets of up to this many heads are tried; of more, single heads and the mean of all.
ALL_SUBSETS = 4
Way = tuple[tuple[int, ...], ...]


def head_options(heads: int, kv_heads: int, fewer: int) -> list[list[tuple[int, ...]]]:
    """Returns, for each new KV head, the sets of the parent's heads that may be averaged into it.

    Only heads that the new head's queries used to read are considered: single ones, the mean of
    all of them (mean-pooling, Ainslie et al. 2023), and of few heads every subset.

    Example:
        >>> head_options(4, 4, 2)
        [[(0,), (1,), (0, 1)], [(2,), (3,), (2, 3)]]
    """
    group, old_group = heads // fewer, heads // kv_heads
    found = []
    for new in range(fewer):
        used = sorted({head // old_group for head in range(new * group, (new + 1) * group)})
        sizes = range(1, len(used) + 1) if len(used) <= ALL_SUBSETS else {1, len(used)}
        found.append([subset for size in sorted(sizes) for subset in combinations(used, size)])
    return found


def whole_ways(options: list[list[tuple[int, ...]]]) -> list[Way]:
    """Returns ways for all heads at once in which every option appears.

    The last way averages all heads, as every head's last option does.
    """
    depth = max(map(len, options))
    return [tuple(own[min(index, len(own) - 1)] for own in options) for index in range(depth)]


def promising_ways(ways: Sequence[Way], errors: torch.Tensor, most: int = 3) -> list[Way]:
    """Returns the ways worth a fit: the best head by head, mean-pooling, then the best whole ones.

    Args:
        ways: Of `whole_ways`.
        errors: How much each new head misses in each way, (ways, new heads).
        most: How many are returned.
    """
    best = tuple(ways[int(index)][head] for head, index in enumerate(errors.argmin(0)))
    order = errors.sum(1).argsort().tolist()
    ranked = [best, ways[-1], *(ways[index] for index in order)]
    return list(dict.fromkeys(ranked))[:most]


def merge_kv_heads(tensor: torch.Tensor, way: Way, head_dim: int) -> torch.Tensor:
    """Returns the rows of a key or value map (or bias) averaged head by head as `way` says.

    Args:
        tensor: (kv_heads * head_dim, ...).
        way: For every new head, the parent's heads averaged into it.
        head_dim: Channels per head.
    """
    by_head = tensor.unflatten(0, (-1, head_dim))
    merged = torch.stack([by_head[list(old)].float().mean(0) for old in way])
    return merged.flatten(0, 1).to(tensor.dtype).contiguous()
