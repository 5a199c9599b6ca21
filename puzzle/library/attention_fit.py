"""One layer's attention variants: initialised from the parent and fitted in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from puzzle.library.affine import map_of, map_tensors, map_with_bias, ones
from puzzle.library.elimination import damped, elimination_order
from puzzle.library.fitting import Fitted, Fitting, Tensors, attention_key
from puzzle.library.head_groups import GROUPS, of_groups, spans_heads
from puzzle.library.kv_merging import (
    HeadMerge,
    candidate_merges,
    head_options,
    merge_kv_heads,
    promising_merges,
)
from puzzle.library.least_squares import HeldOut, Moments
from puzzle.library.local_error import LocalError
from puzzle.library.rescaling import Pair, Rescaling
from puzzle.library.streams import Rows
from puzzle.models.slots import KEY, QUERY, VALUE
from search_space import Attention
from search_space.blocks import MIXERS

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
        slot = self.slot = self.family.mixing(self.own.attention)
        # A layer of a child may lack a half, or have a linear map in its place.
        exists = self.own.attention.kind != "none"
        self.attention: Any = getattr(fits.layer, slot.module) if exists else None
        self.out: Any = getattr(self.attention, slot.out, None)
        self.heads = self.own.attention.heads or fits.parent.shape.heads
        # The variant whose output was computed last, on the device.
        self._built: (
            tuple[str, nn.Module | None, torch.Tensor | None, torch.Tensor | None] | None
        ) = None
        self._sums: dict[int | None, tuple[Moments, HeldOut]] = {}

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
            fitted = self.fits.fit(train, held_out, start, torch.zeros_like(start))
            self.fits.errors[key] = fitted.error
            name = f"{self.family.attention.module}.linear_proj.weight"
            self.fits.store(key, {name: fitted.weight.T})
        elif attention.kind in MIXERS:
            self._refitted(key)
        elif attention.heads == self.own.attention.heads:
            self._with_merged_heads(key, attention)
        else:
            self._with_fewer_groups(key, attention)

    def _refitted(self, key: str) -> None:
        """Fits the last map of a hybrid's mixer, the rest of which stays as it is."""
        prior = map_with_bias(self.out.weight, self.out.bias)
        rescaling = Rescaling(self.fits.parent, self.layer, self.slot)
        fitted = self.fits.fit(*self._own_sums(rescaling, None), prior, prior)
        pair = partial(self._pair, None, None)
        fitted = self.fits.in_the_stream(rescaling, pair, prior, fitted, 0.0)
        self.fits.errors[key] = fitted.error
        self.fits.store(key, self._out_tensors(fitted.weight))

    def _with_merged_heads(self, key: str, attention: Attention) -> None:
        """Fits the output map for each promising merge of KV heads, and keeps the best."""
        out, window = self.out, attention.window
        prior = map_with_bias(out.weight, out.bias)
        rescaling = Rescaling(self.fits.parent, self.layer, self.family.attention)
        own = self.own.attention.kv_heads or 1
        merges = candidate_merges(head_options(self.heads, own, attention.kv_heads or 1))
        pooled = merges[-1]
        if self.fits.config.start == "puzzle":
            merges = [pooled]
        elif len(merges) > 1:
            merges = promising_merges(merges, self._lost_power(merges, window))
        fits: dict[HeadMerge, Fitted] = {}
        for merge in merges:
            pair = partial(self._pair, self._with(self._merged(merge), attention), window)
            sums = self.fits.collect(len(prior), self.fits.undone(rescaling, self._own, pair))
            fitted = self.fits.fit(*sums, prior, prior)
            fits[merge] = self.fits.in_the_stream(rescaling, pair, prior, fitted, 0.0)
        best = min(merges, key=lambda merge: fits[merge].error.fitted)
        weight, error = fits[best].weight, fits[best].error
        self.fits.errors[key] = LocalError(
            before=fits[pooled].error.before, fitted=error.fitted, ridge=error.ridge
        )
        self.fits.store(key, {**self._merged(best), **self._out_tensors(weight)})

    def _with_fewer_groups(self, key: str, attention: Attention) -> None:
        """Removes whole groups of heads, each time those that are missed least by the others."""
        slot, window = self.family.attention, attention.window
        rescaling = Rescaling(self.fits.parent, self.layer, slot)
        prior = map_with_bias(self.out.weight, self.out.bias)
        train, held_out = self._own_sums(rescaling, window)
        most, bias = self.own.attention.kv_heads or 1, len(prior) - self.out.weight.shape[1]
        size = self.out.weight.shape[1] // most
        # Where a child's stream enters, the map that does best with all heads is another one.
        residual = train.cross - train.gram @ prior if self.streams.child else None
        order = elimination_order(damped(train.gram), prior, residual, size=size, fixed=bias)
        kept = order[: attention.kv_heads].sort().values.to(prior.device)
        columns = (kept[:, None] * size + torch.arange(size, device=kept.device)).flatten()
        columns = torch.cat([columns, columns.new_tensor([len(prior) - 1] * bias)])
        start, reduced = prior[columns], self._with(self._of(kept), attention)
        pair = partial(self._pair, reduced, window)
        if self._spans_heads():  # the norm of the heads that stay is another one without the rest
            sums = self.fits.collect(len(columns), self.fits.undone(rescaling, self._own, pair))
        else:
            sums = train.columns(columns), held_out.columns(columns)
        fitted = self.fits.fit(*sums, start, start)
        fitted = self.fits.in_the_stream(rescaling, pair, start, fitted, 0.0)
        self.fits.errors[key] = fitted.error
        self.fits.tensors[f"{key}/{GROUPS}"] = kept.to(torch.int32)
        self.fits.store(key, self._out_tensors(fitted.weight))

    def _own_sums(self, rescaling: Rescaling, window: int | None) -> tuple[Moments, HeldOut]:
        """Returns the moments and held-out tokens of the features of all heads."""
        if window not in self._sums:
            width = self.out.weight.shape[1] + (self.out.bias is not None)
            pair = self.fits.undone(rescaling, self._own, partial(self._pair, None, window))
            self._sums[window] = self.fits.collect(width, pair)
        return self._sums[window]

    def _spans_heads(self) -> bool:
        head_dim = self.fits.parent.shape.head_dim
        state = self.attention.state_dict().items()
        return any("_norm" in name and spans_heads(tensor, head_dim) for name, tensor in state)

    def _of(self, kept: torch.Tensor) -> Tensors:
        """Returns the tensors of some groups of heads, the last map left out."""
        slot = self.family.attention
        tensors = of_groups(
            self.attention.state_dict(),
            kept,
            slot,
            self._row_counts,
            groups=self.own.attention.kv_heads or 1,
            head_dim=self.fits.parent.shape.head_dim,
        )
        return {f"{slot.module}.{name}": tensor for name, tensor in tensors.items()}

    def _out_tensors(self, weight: torch.Tensor) -> Tensors:
        name = f"{self.slot.module}.{self.slot.out}"
        return map_tensors(name, weight, self.out.bias)

    def _pair(self, attention: nn.Module | None, window: int | None, rows: Rows) -> Pair:
        """Returns what enters the last map of an attention, and what it should add."""
        return ones(self._context(rows.x, attention, window), self.out.bias), rows.attention

    def _own(self, rows: Rows, _: torch.Tensor) -> torch.Tensor:
        own: torch.Tensor = self.out(
            self.family.attention_features(self.layer, rows.x, self.fits.rope)
        )
        return own

    def _linear_start(self) -> torch.Tensor:
        """Returns W_O W_V, what the attention does if each token attends to itself alone."""
        if self.own.attention.kind == "linear":
            return map_of(self.attention)
        if self.own.attention.kind in MIXERS:
            return torch.zeros(2 * self.out.weight.shape[:1], device=self.streams.device)
        tensors = self.attention.state_dict()
        value = self.family.attention.part(tensors, VALUE, self._row_counts)["weight"].float()
        by_head = value.unflatten(0, (-1, self.fits.parent.shape.head_dim))
        copies = self.out.weight.shape[1] // len(value)
        whole = by_head.repeat_interleave(copies, 0).flatten(0, 1)
        scale = self.family.residual_scale(self.fits.parent.config)
        return (self.out.weight.float() @ whole).T * scale

    def _lost_power(self, merges: Sequence[HeadMerge], window: int | None) -> torch.Tensor:
        """Returns the power that each new head loses in each merge, unfitted, (merges, heads)."""
        sizes = replace(self.own.attention, kv_heads=len(merges[0]))
        out = self.out.weight.T.unflatten(0, (len(merges[0]), -1)).float()
        merged = [self._with(self._merged(merge), sizes) for merge in merges]

        def lost(rows: Rows) -> torch.Tensor:
            own = self._context(rows.x, None, window)
            losses = []
            for attention in merged:
                change = (self._context(rows.x, attention, window) - own).float()
                by_head = change.unflatten(-1, (out.shape[0], -1))
                losses.append(torch.einsum("blhk,hkd->blhd", by_head, out).square().sum((0, 1, 3)))
            return torch.stack(losses)

        assert self.heads % len(merges[0]) == 0
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

    def _with(self, tensors: Mapping[str, torch.Tensor], sizes: Attention) -> nn.Module:
        """Returns the stock attention with other tensors, of other sizes; its last map is none."""
        slot = self.family.attention
        state = dict(self.attention.state_dict())
        state |= {name.removeprefix(f"{slot.module}."): t for name, t in tensors.items()}
        config = self.family.layer_config(self.fits.parent.config, sizes)
        with torch.device("meta"):
            attention: nn.Module = self.family.stock("Attention")(config, self.attention.layer_idx)
        attention._modules[slot.out] = nn.Identity()
        last = (f"{slot.out}.weight", f"{slot.out}.bias")
        state = {name: tensor for name, tensor in state.items() if name not in last}
        attention.load_state_dict(state, assign=True)
        return attention.eval().requires_grad_(False)

    def _context(
        self, x_BLD: torch.Tensor, attention: nn.Module | None, window: int | None
    ) -> torch.Tensor:
        """Returns what enters the last map of an attention; by default of the layer's own."""
        return self.family.attention_features(
            self.layer, x_BLD, self.fits.rope, attention=attention, window=window
        )

    def output(self, attention: Attention, rows: Rows) -> torch.Tensor:
        """Returns what an attention variant adds to the residual stream, float32."""
        if attention.kind == "none":
            return torch.zeros_like(rows.attention)
        prefix = attention_key(attention) + "/"
        if self._built is None or self._built[0] != prefix:
            self._built = None  # before the next one takes its memory
            self._built = (prefix, *self._loaded(prefix, attention))
        _, module, weight, bias = self._built
        if weight is None:
            return rows.attention
        if attention.kind == "linear":
            h = self.family.normed(self.layer, self.family.attention.before, rows.x)
            return nn.functional.linear(h, weight).float()
        context = self._context(rows.x, module, attention.window)
        out = nn.functional.linear(context, weight, bias)
        return self.family.added(self.layer, self.slot, out, self.fits.parent.config).float()

    def _loaded(
        self, prefix: str, attention: Attention
    ) -> tuple[nn.Module | None, torch.Tensor | None, torch.Tensor | None]:
        """Returns a variant on the device: all but its last map, and that map with its bias."""
        stored, device = self.fits.tensors.items(), self.streams.device
        tensors = {k.removeprefix(prefix): v.to(device) for k, v in stored if k.startswith(prefix)}
        if not tensors:
            return None, None, None
        if attention.kind == "linear":
            name = f"{self.family.attention.module}.linear_proj.weight"
            return None, tensors[name], None
        last = f"{self.slot.module}.{self.slot.out}"
        weight, bias = tensors.pop(f"{last}.weight"), tensors.pop(f"{last}.bias", None)
        if (kept := tensors.pop(GROUPS, None)) is not None:
            tensors |= self._of(kept)
        module = None if attention.kind in MIXERS else self._with(tensors, attention)
        return module, weight, bias

    def release(self) -> None:
        """Frees what only `build` needs."""
        self._sums.clear()
