"""One layer's attention variants: initialised from the parent and fitted in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from puzzle.library.affine import map_of, map_tensors, map_with_bias, ones
from puzzle.library.fitting import Fitted, Fitting, Tensors, attention_key
from puzzle.library.kv_merging import (
    HeadMerge,
    candidate_merges,
    head_options,
    merge_kv_heads,
    promising_merges,
)
from puzzle.library.local_error import LocalError
from puzzle.library.rescaling import Pair, Rescaling
from puzzle.library.streams import Rows
from puzzle.models.slots import KEY, QUERY, VALUE
from search_space import Attention

# Fitted windows that choose between merges of KV heads.
SCREENED = 8


class AttentionFit:
    """Builds the attention variants of one layer.

    Args:
        fits: The layer.
    """

    def __init__(self, fits: Fitting) -> None:
        self.fits = fits
        self.layer, self.own, self.streams = fits.layer, fits.own, fits.streams
        self.family = fits.family
        slot = self.family.attention
        # A layer of a child may lack a half, or have a linear map in its place.
        self.attention: Any = getattr(fits.layer, slot.module, None)
        self.out: Any = getattr(self.attention, slot.out, None)
        self._built: dict[str, nn.Module] = {}

    def build(self, attention: Attention) -> None:
        """Makes one attention variant, into the tensors and errors of the layer."""
        key = attention_key(attention)
        if attention == self.own.attention and not (self.streams.child and self.attention):
            self.fits.errors[key] = LocalError(before=0.0, fitted=0.0)
        elif attention.kind == "none":
            self.fits.errors[key] = LocalError(before=1.0, fitted=1.0)
        elif attention.kind == "linear":
            before = self.family.attention.before
            start = self._linear_start()
            train, held_out = self.fits.collect(
                len(start),
                lambda rows: (
                    self.family.normed(self.layer, before, rows.x),
                    rows.attention,
                ),
            )
            weight, self.fits.errors[key] = self.fits.fit(
                train, held_out, start, torch.zeros_like(start)
            )
            self.fits.store(key, {f"{self.family.attention.module}.linear_proj.weight": weight.T})
        else:
            self._grouped(key, attention.kv_heads or 1)

    def _grouped(self, key: str, kv_heads: int) -> None:
        """Fits the output map for each promising merge of KV heads, and keeps the best."""
        shape, out = self.fits.parent.shape, self.out
        prior = map_with_bias(out.weight, out.bias)
        rescaling = Rescaling(self.fits.parent, self.layer, self.family.attention)
        own = self.own.attention.kv_heads or 1
        merges = candidate_merges(head_options(shape.heads, own, kv_heads))
        pooled = merges[-1]
        if self.fits.config.start == "puzzle":
            merges = [pooled]
        elif len(merges) > 1:
            merges = promising_merges(merges, self._lost_power(merges))
        fits: dict[HeadMerge, Fitted] = {}
        for merge in merges:
            pair = partial(self._pair, self._with(self._merged(merge), len(merge)))
            sums = self.fits.collect(len(prior), self.fits.undone(rescaling, self._own, pair))
            fitted = self.fits.fit(*sums, prior, prior)
            fits[merge] = self.fits.in_the_stream(rescaling, pair, prior, fitted, 0.0)
        best = min(merges, key=lambda merge: fits[merge][1].fitted)
        weight, error = fits[best]
        self.fits.errors[key] = LocalError(
            before=fits[pooled][1].before, fitted=error.fitted, ridge=error.ridge
        )
        name = f"{self.family.attention.module}.{self.family.attention.out}"
        self.fits.store(key, {**self._merged(best), **map_tensors(name, weight, out.bias)})

    def _pair(self, attention: nn.Module, rows: Rows) -> Pair:
        """Returns what enters the last map of another attention, and what it should add."""
        return ones(self._context(rows.x, attention), self.out.bias), rows.attention

    def _own(self, rows: Rows, _: torch.Tensor) -> torch.Tensor:
        own: torch.Tensor = self.out(
            self.family.attention_features(self.layer, rows.x, self.fits.rope)
        )
        return own

    def _linear_start(self) -> torch.Tensor:
        """Returns W_O W_V, what the attention does if each token attends to itself alone."""
        if self.own.attention.kind == "linear":
            return map_of(self.attention)
        tensors = self.attention.state_dict()
        value = self.family.attention.part(tensors, VALUE, self._row_counts)["weight"].float()
        by_head = value.unflatten(0, (-1, self.fits.parent.shape.head_dim))
        copies = self.out.weight.shape[1] // len(value)
        return (self.out.weight.float() @ by_head.repeat_interleave(copies, 0).flatten(0, 1)).T

    def _lost_power(self, merges: Sequence[HeadMerge]) -> torch.Tensor:
        """Returns the power that each new head loses in each merge, unfitted, (merges, heads)."""
        shape = self.fits.parent.shape
        out = self.out.weight.T.unflatten(0, (len(merges[0]), -1)).float()
        merged = [self._with(self._merged(merge), len(merge)) for merge in merges]

        def lost(rows: Rows) -> torch.Tensor:
            own = self.family.attention_features(self.layer, rows.x, self.fits.rope)
            losses = []
            for attention in merged:
                change = (self._context(rows.x, attention) - own).float()
                by_head = change.unflatten(-1, (out.shape[0], -1))
                losses.append(torch.einsum("blhk,hkd->blhd", by_head, out).square().sum((0, 1, 3)))
            return torch.stack(losses)

        assert shape.heads % len(merges[0]) == 0
        return torch.stack([loss for _, loss in self.streams.batches(lost, most=SCREENED)]).sum(0)

    def _merged(self, merge: HeadMerge) -> Tensors:
        slot, sizes, head_dim = (
            self.family.attention,
            self._row_counts,
            self.fits.parent.shape.head_dim,
        )
        own = self.attention.state_dict()

        def change(part: str, rows: torch.Tensor) -> torch.Tensor:
            return rows if part == QUERY else merge_kv_heads(rows, merge, head_dim)

        # Queries of a map of their own stay the parent's.
        shared = {name for name, parts in slot.maps if parts == (QUERY,)}
        maps = {n: t for n, t in own.items() if n.rpartition(".")[0] not in shared}
        merged = slot.changed(maps, sizes, change)
        for name, tensor in own.items():
            # A norm over the keys of all heads at once has as many channels as they have.
            if "k_norm" in name and len(tensor) == sizes[KEY]:
                merged[name] = merge_kv_heads(tensor, merge, head_dim)
        return {f"{slot.module}.{name}": tensor for name, tensor in merged.items()}

    @property
    def _row_counts(self) -> dict[str, int]:
        return self.family.row_counts(self.fits.parent.shape, self.own.attention)

    def _with(self, tensors: Mapping[str, torch.Tensor], kv_heads: int) -> nn.Module:
        """Returns the stock attention with other keys and values of so many heads."""
        slot = self.family.attention
        state = dict(self.attention.state_dict())
        state |= {name.removeprefix(f"{slot.module}."): t for name, t in tensors.items()}
        sizes = self.family.layer_config(self.fits.parent.config, Attention("gqa", kv_heads))
        with torch.device("meta"):
            attention: nn.Module = self.family.stock("Attention")(sizes, self.attention.layer_idx)
        attention.load_state_dict(state, assign=True)
        return attention.eval().requires_grad_(False)

    def _context(self, x_BLD: torch.Tensor, attention: nn.Module) -> torch.Tensor:
        """Returns what enters the last map of another attention in the place of the layer's own."""
        return self.family.attention_features(
            self.layer, x_BLD, self.fits.rope, attention=attention
        )

    def output(self, attention: Attention, rows: Rows) -> torch.Tensor:
        """Returns what an attention variant adds to the residual stream, float32."""
        if attention.kind == "none":
            return torch.zeros_like(rows.attention)
        prefix = attention_key(attention) + "/"
        stored = self.fits.tensors.items()
        tensors = {k.removeprefix(prefix): v for k, v in stored if k.startswith(prefix)}
        if not tensors:
            return rows.attention
        slot = self.family.attention
        if attention.kind == "linear":
            h = self.family.normed(self.layer, slot.before, rows.x)
            return nn.functional.linear(h, tensors[f"{slot.module}.linear_proj.weight"]).float()
        last = f"{slot.module}.{slot.out}"
        weight, bias = tensors.pop(f"{last}.weight"), tensors.pop(f"{last}.bias", None)
        if prefix not in self._built:
            self._built[prefix] = self._with(tensors, attention.kv_heads or 1)
        out = nn.functional.linear(self._context(rows.x, self._built[prefix]), weight, bias)
        return self.family.added(self.layer, slot, out, self.fits.parent.config).float()
