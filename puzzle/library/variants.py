"""Variants: the weights of one layer's blocks, read from disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import nn

from puzzle.errors import PuzzleError
from puzzle.library.experts_fit import EXPERT_CHANNELS, EXPERTS, kept_of
from puzzle.library.fitting import attention_key, ffn_key
from puzzle.library.head_groups import GROUPS, of_groups
from puzzle.models.assembling import layer_from_block
from puzzle.models.parent import Parent
from puzzle.models.slots import Slot
from puzzle.models.weight_rounding import rounded_to
from puzzle.storage.workspace import Artifact
from search_space import Block

TENSORS = "variants.safetensors"
Tensors = dict[str, torch.Tensor]


class Variants:
    """The weights of one layer's blocks; what is read from disk is read once.

    A variant stores only what differs from the parent; the rest is the parent's.

    Args:
        parent: The parent.
        layer: The layer's number.
        artifact: The layer's variants.
    """

    def __init__(self, parent: Parent, layer: int, artifact: Artifact) -> None:
        self.parent, self.layer, self.artifact = parent, layer, artifact

    @property
    def _parents(self) -> Block:
        return self.parent.shape.parent_blocks[self.layer]

    @cached_property
    def own(self) -> Tensors:
        """The parent's tensors of the layer."""
        return self.parent.layer_tensors(self.layer)

    @cached_property
    def stored(self) -> Tensors:
        """What the variants do not share with the parent."""
        return self.artifact.load_tensors(TENSORS)

    def block_tensors(self, block: Block) -> Tensors:
        """Returns the weights of one block under their names within the layer.

        Raises:
            PuzzleError: The library does not have the block; the message lists what it has.
        """
        return {**self._attention(block), **self._ffn(block)}

    def layer_module(self, block: Block) -> nn.Module:
        """Returns one block as a decoder layer, on the parent's device."""
        return self._module(block, self.block_tensors(block))

    def half_module(self, half: Block, whole: Block) -> nn.Module:
        """Returns a block's attention or its FFN alone, on the parent's device.

        Args:
            half: The block with no FFN, or with no attention.
            whole: The block, whose attention may choose the FFN's weights.
        """
        mixes = half.ffn.kind == "none"
        return self._module(half, self._attention(whole) if mixes else self._ffn(whole))

    def _module(self, block: Block, tensors: Tensors) -> nn.Module:
        parent = self.parent
        module = layer_from_block(parent.config, parent.shape, self.layer, block, tensors)
        return module.to(parent.device)

    def ffn_key(self, block: Block) -> str:
        """Returns the name of the FFN that goes with a block's attention, before quantising."""
        own = self._parents.attention
        coupled = ffn_key(block.attention, block.ffn)
        return coupled if self._below(coupled) else ffn_key(own, block.ffn)

    def _attention(self, block: Block) -> Tensors:
        kind = block.attention.kind
        if kind == "none":
            return {}
        changed = self._below(attention_key(block.attention))
        if not changed and block.attention.unquantised != self._parents.attention:
            raise self._missing(block)
        slot = self.parent.family.mixing(block.attention)
        names = slot.names if kind == self._parents.attention.kind else slot.norms_before
        own = tensors_of(self.own, names)
        if (kept := changed.pop(GROUPS, None)) is not None:
            own |= self._with_rows(
                own,
                slot,
                lambda inner: of_groups(
                    inner,
                    kept,
                    slot,
                    self.parent.family.row_counts(self.parent.shape, self._parents.attention),
                    groups=self._parents.attention.kv_heads or 1,
                    head_dim=self.parent.shape.head_dim,
                ),
            )
        return rounded_to({**own, **changed}, block.attention.weights)

    def _ffn(self, block: Block) -> Tensors:
        kind = block.ffn.kind
        if kind == "none":
            return {}
        changed = self._below(self.ffn_key(block))
        if not changed and block.ffn.unquantised != self._parents.ffn:
            raise self._missing(block)
        slot = self.parent.family.ffn
        names = slot.names if kind == self._parents.ffn.kind else slot.norms_before
        own = tensors_of(self.own, names)
        if EXPERTS in changed:
            kept, narrow = changed.pop(EXPERTS).long(), changed.pop(EXPERT_CHANNELS, None)
            assert self.parent.family.experts is not None
            own = kept_of(
                self.parent.family.experts,
                own,
                slot.module,
                kept,
                None if narrow is None else narrow.long(),
            )
        if "channels" in changed:
            kept = changed.pop("channels").long()
            sizes = self.parent.family.row_counts(self.parent.shape, self._parents.ffn)
            own |= self._with_rows(
                own,
                slot,
                lambda inner: slot.changed(inner, sizes, lambda _, rows: rows[kept]),
            )
        return rounded_to({**own, **changed}, block.ffn.weights)

    def _with_rows(
        self, tensors: Tensors, slot: Slot, change: Callable[[Tensors], Tensors]
    ) -> Tensors:
        """Returns what a change makes of the tensors of a half, by their names within the layer."""
        prefix = f"{slot.module}."
        inner = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        return {prefix + name: tensor for name, tensor in change(inner).items()}

    def _below(self, key: str) -> Tensors:
        prefix = f"{key}/"
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.stored.items()
            if name.startswith(prefix)
        }

    def _missing(self, block: Block) -> PuzzleError:
        have = sorted({name.rpartition("/")[0] for name in self.stored})
        return PuzzleError(
            f"the library has no {block.label!r} for layer {self.layer}; besides the parent's own "
            f"it has {', '.join(have) or 'nothing'}: build it with a search space that contains it"
        )


def tensors_of(tensors: Tensors, modules: tuple[str, ...]) -> Tensors:
    """Returns the tensors of a layer that belong to some of its modules."""
    return {name: t for name, t in tensors.items() if name.partition(".")[0] in modules}
