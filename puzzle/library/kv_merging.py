"""Merges of the parent's KV heads into fewer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch

# All subsets of up to this many heads are tried; of more heads, each alone and the mean of all.
ALL_SUBSETS = 4
# For every new head, the parent's heads that are averaged into it.
HeadMerge = tuple[tuple[int, ...], ...]


def head_options(heads: int, kv_heads: int, fewer: int) -> list[list[tuple[int, ...]]]:
    """Returns, for each new KV head, the sets of the parent's heads that may be averaged into it.

    Only heads that the new head's queries used to read are considered: single ones, the mean of
    all of them (mean-pooling, Ainslie et al. 2023), and of few heads every subset.

    Example:
        >>> head_options(4, 4, 2)
        [[(0,), (1,), (0, 1)], [(2,), (3,), (2, 3)]]
    """
    group, old_group = heads // fewer, heads // kv_heads
    options = []
    for new in range(fewer):
        used = sorted({head // old_group for head in range(new * group, (new + 1) * group)})
        sizes = range(1, len(used) + 1) if len(used) <= ALL_SUBSETS else {1, len(used)}
        options.append([subset for size in sorted(sizes) for subset in combinations(used, size)])
    return options


def candidate_merges(options: list[list[tuple[int, ...]]]) -> list[HeadMerge]:
    """Returns merges of all heads in which every option appears at least once.

    The last merge averages all heads, as every head's last option does.
    """
    depth = max(map(len, options))
    return [tuple(own[min(index, len(own) - 1)] for own in options) for index in range(depth)]


def promising_merges(
    merges: Sequence[HeadMerge], errors: torch.Tensor, most: int = 3
) -> list[HeadMerge]:
    """Returns the merges worth a fit: the best head by head, mean-pooling, then the best as given.

    Args:
        merges: Those of `candidate_merges`.
        errors: How much each new head loses in each merge, (merges, new heads).
        most: How many are returned.
    """
    best = tuple(merges[int(index)][head] for head, index in enumerate(errors.argmin(0)))
    order = errors.sum(1).argsort().tolist()
    ranked = [best, merges[-1], *(merges[index] for index in order)]
    return list(dict.fromkeys(ranked))[:most]


def merge_kv_heads(tensor: torch.Tensor, merge: HeadMerge, head_dim: int) -> torch.Tensor:
    """Returns the rows of a key or value map (or bias) averaged head by head as `merge` says.

    Args:
        tensor: (kv_heads * head_dim, ...).
        merge: For every new head, the parent's heads averaged into it.
        head_dim: Channels per head.
    """
    by_head = tensor.unflatten(0, (-1, head_dim))
    merged = torch.stack([by_head[list(old)].float().mean(0) for old in merge])
    return merged.flatten(0, 1).to(tensor.dtype).contiguous()
