"""Groups of heads: a head of keys and values, and the query heads that read it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from puzzle.models.slots import Slot

# The key under which a variant stores the numbers of the groups that it keeps.
GROUPS = "groups"


def of_groups(
    tensors: Mapping[str, torch.Tensor],
    kept: torch.Tensor,
    slot: Slot,
    sizes: Mapping[str, int],
    *,
    groups: int,
    head_dim: int,
) -> dict[str, torch.Tensor]:
    """Returns the rows that belong to some groups, of the tensors that have rows for each.

    Args:
        tensors: The tensors of an attention, by name within it.
        kept: The numbers of the groups, in ascending order.
        slot: Where the attention is.
        sizes: How many rows of each kind its maps have.
        groups: How many groups it has.
        head_dim: Channels per head.
    """

    def of_kept(rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(0, (groups, -1))[kept.long()].flatten(0, 1)

    changed = slot.changed(tensors, sizes, lambda _, rows: of_kept(rows))
    for name, tensor in tensors.items():
        # A norm of one head serves all; one over all heads at once has channels of each group.
        if "_norm" in name and spans_heads(tensor, head_dim):
            changed[name] = of_kept(tensor)
    return changed


def spans_heads(norm: torch.Tensor, head_dim: int) -> bool:
    """Returns whether a norm of queries or keys is over all heads at once."""
    return len(norm) > head_dim
