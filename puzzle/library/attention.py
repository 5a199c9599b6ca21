"""Ways to start an attention with fewer KV heads from the parent's."""

from __future__ import annotations

import torch


def kv_head_choices(heads: int, kv_heads: int, fewer: int) -> list[list[tuple[int, ...]]]:
    """Returns ways to make `fewer` KV heads out of the parent's.

    Each way names, for every new head, the parent heads that are averaged into it: one of those
    its queries used to read, or all of them (mean-pooling, Ainslie et al. 2023).

    Example:
        >>> kv_head_choices(4, 2, 1)
        [[(0,)], [(1,)], [(0, 1)]]
    """
    group, old_group = heads // fewer, heads // kv_heads
    used = [
        sorted({head // old_group for head in range(new * group, (new + 1) * group)})
        for new in range(fewer)
    ]
    depth = max(map(len, used))
    single: list[list[tuple[int, ...]]] = [
        [(old[min(way, len(old) - 1)],) for old in used] for way in range(depth)
    ]
    return [*single, [tuple(old) for old in used]]


def merge_kv_heads(tensor: torch.Tensor, way: list[tuple[int, ...]], head_dim: int) -> torch.Tensor:
    """Returns the rows of a key or value map (or bias) averaged head by head as `way` says.

    Args:
        tensor: (kv_heads * head_dim, ...).
        way: One of `kv_head_choices`.
        head_dim: Channels per head.
    """
    by_head = tensor.unflatten(0, (-1, head_dim))
    merged = torch.stack([by_head[list(old)].float().mean(0) for old in way])
    return merged.flatten(0, 1).to(tensor.dtype).contiguous()
