"""One layer's variants: initialised from the parent and fitted in closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from puzzle.library.affine import map_of, map_tensors, map_with_bias, ones
from puzzle.library.ffn_sums import FFNSums
from puzzle.library.kv_merging import (
    HeadMerge,
    candidate_merges,
    head_options,
    merge_kv_heads,
    promising_merges,
)
from puzzle.library.least_squares import HeldOut, Moments, fit
from puzzle.library.local_error import LocalError
from puzzle.library.rescaling import Pair, Rescaling
from puzzle.library.settings import LibraryConfig
from puzzle.library.streams import Rows, Streams
from puzzle.models.parent import Parent
from search_space import FFN, Attention, Block

# Fitted windows that choose between merges of KV heads.
SCREENED = 8
Tensors = dict[str, torch.Tensor]
Fitted = tuple[torch.Tensor, LocalError]
PairOf = Callable[[Rows], Pair]


def attention_key(attention: Attention) -> str:
    """Returns the name of an attention variant."""
    return f"attention/{attention.label}"


def ffn_key(attention: Attention, ffn: FFN) -> str:
    """Returns the name of the FFN that goes with an attention."""
    return f"ffn/{attention.label}/{ffn.label}"


class LayerFit:
    """Builds every variant of one layer.

    Args:
        parent: The parent.
        index: The layer's number.
        layer: The parent's layer, loaded.
        streams: What enters the layer, and what it should return.
        config: How variants are made.
    """

    def __init__(
        self,
        parent: Parent,
        index: int,
        layer: nn.Module,
        streams: Streams,
        config: LibraryConfig,
    ) -> None:
        self.parent, self.streams, self.config = parent, streams, config
        self.layer: Any = layer
        self.own = parent.shape.parent_blocks[index]
        self.family, self.rope = parent.family, parent.rope(streams.x.shape[1])
        # A layer of a child may lack a half, or have a linear map in its place.
        self.attention: Any = getattr(layer, self.family.attention.module, None)
        self.ffn: Any = getattr(layer, self.family.ffn.module, None)
        self.out: Any = getattr(self.attention, self.family.attention.out, None)
        self.down: Any = getattr(self.ffn, self.family.ffn.out, None)
        self.tensors: Tensors = {}
        self.errors: dict[str, LocalError] = {}
        self._built: dict[str, nn.Module] = {}

    def build(self, blocks: Iterable[Block]) -> None:
        """Makes the variants that some blocks need, into `tensors` and `errors`."""
        wanted = tuple(dict.fromkeys(blocks))
        for attention in dict.fromkeys(block.attention for block in wanted):
            self._attention(attention)
        for attention, ffns in self.groups(wanted).items():
            self._ffns(attention, ffns)

    def groups(self, blocks: Iterable[Block]) -> dict[Attention, tuple[FFN, ...]]:
        """Returns the FFNs to make by the attention they are fitted behind."""
        ffns_behind: dict[Attention, dict[FFN, None]] = {}
        for block in blocks:
            # Where a child's stream enters, every FFN has something to make up for.
            coupled = self.streams.child or self.config.coupled(block.attention)
            behind = block.attention if coupled else self.own.attention
            ffns_behind.setdefault(behind, {})[block.ffn] = None
        return {attention: tuple(ffns) for attention, ffns in ffns_behind.items()}

    def _attention(self, attention: Attention) -> None:
        key = attention_key(attention)
        if attention == self.own.attention and not (self.streams.child and self.attention):
            self.errors[key] = LocalError(before=0.0, fitted=0.0)
        elif attention.kind == "none":
            self.errors[key] = LocalError(before=1.0, fitted=1.0)
        elif attention.kind == "linear":
            before = self.family.attention.before
            start = self._linear_start()
            train, held_out = self._collect(
                len(start),
                lambda rows: (self.family.normed(self.layer, before, rows.x), rows.attention),
            )
            weight, self.errors[key] = self._fit(train, held_out, start, torch.zeros_like(start))
            self._store(key, {f"{self.family.attention.module}.linear_proj.weight": weight.T})
        else:
            self._grouped(key, attention.kv_heads or 1)

    def _grouped(self, key: str, kv_heads: int) -> None:
        """Fits the output map for each promising merge of KV heads, and keeps the best."""
        shape, out = self.parent.shape, self.out
        prior = map_with_bias(out.weight, out.bias)
        rescaling = Rescaling(self.parent, self.layer, self.family.attention)
        own = self.own.attention.kv_heads or 1
        merges = candidate_merges(head_options(shape.heads, own, kv_heads))
        pooled = merges[-1]
        if self.config.start == "puzzle":
            merges = [pooled]
        elif len(merges) > 1:
            merges = promising_merges(merges, self._lost_power(merges))
        fits: dict[HeadMerge, Fitted] = {}
        for merge in merges:
            pair = partial(self._attention_pair, self._attention_with(self._merged(merge)))
            sums = self._collect(len(prior), self._undone(rescaling, self._own_attention, pair))
            fitted = self._fit(*sums, prior, prior)
            fits[merge] = self._in_the_stream(rescaling, pair, prior, fitted, 0.0)
        best = min(merges, key=lambda merge: fits[merge][1].fitted)
        weight, error = fits[best]
        self.errors[key] = LocalError(
            before=fits[pooled][1].before, fitted=error.fitted, ridge=error.ridge
        )
        name = f"{self.family.attention.module}.{self.family.attention.out}"
        self._store(key, {**self._merged(best), **map_tensors(name, weight, out.bias)})

    def _attention_pair(self, attention: nn.Module, rows: Rows) -> Pair:
        """Returns what enters the last map of another attention, and what it should add."""
        return ones(self._context(rows.x, attention), self.out.bias), rows.attention

    def _own_attention(self, rows: Rows, _: torch.Tensor) -> torch.Tensor:
        own: torch.Tensor = self.out(self.family.attention_features(self.layer, rows.x, self.rope))
        return own

    def _own_ffn(self, _: Rows, phi: torch.Tensor) -> torch.Tensor:
        own: torch.Tensor = self.down(phi[..., : self.own.ffn.width])
        return own

    def _in_the_stream(
        self, rescaling: Rescaling, pair: PairOf, start: torch.Tensor, fitted: Fitted, power: float
    ) -> Fitted:
        """Returns a fit with the errors of what is added; the start, if that is better.

        Args:
            rescaling: What comes after the map.
            pair: What enters the map and what the half should add, of some windows.
            start: The weights that the map started from.
            fitted: The fit of the map alone.
            power: What the error is a share of; that of the targets if it is 0.
        """
        if rescaling.neutral:
            return fitted
        missed, targets = [0.0, 0.0], 0.0
        for _, (phi, target) in self.streams.batches(pair, held_out_only=True):
            targets += float(target.square().sum())
            for at, weight in enumerate((start, fitted[0])):
                out = (phi.float() @ weight).to(self.parent.dtype)
                missed[at] += float((rescaling.added(out).float() - target).square().sum())
        before, after = (value / max(power or targets, 1e-30) for value in missed)
        if before <= after:
            return start, LocalError(before=before, fitted=before)
        return fitted[0], replace(fitted[1], before=before, fitted=after)

    def _linear_start(self) -> torch.Tensor:
        """Returns W_O W_V, what the attention does if each token attends to itself alone."""
        if self.own.attention.kind == "linear":
            return map_of(self.attention)
        value: Any = getattr(self.attention, self.family.attention.maps[-1])
        by_head = value.weight.float().unflatten(0, (-1, self.parent.shape.head_dim))
        copies = self.out.weight.shape[1] // value.weight.shape[0]
        return (self.out.weight.float() @ by_head.repeat_interleave(copies, 0).flatten(0, 1)).T

    def _lost_power(self, merges: Sequence[HeadMerge]) -> torch.Tensor:
        """Returns the power that each new head loses in each merge, unfitted, (merges, heads)."""
        shape = self.parent.shape
        out = self.out.weight.T.unflatten(0, (len(merges[0]), -1)).float()
        merged = [self._attention_with(self._merged(merge)) for merge in merges]

        def lost(rows: Rows) -> torch.Tensor:
            own = self.family.attention_features(self.layer, rows.x, self.rope)
            losses = []
            for attention in merged:
                change = (self._context(rows.x, attention) - own).float()
                by_head = change.unflatten(-1, (out.shape[0], -1))
                losses.append(torch.einsum("blhk,hkd->blhd", by_head, out).square().sum((0, 1, 3)))
            return torch.stack(losses)

        assert shape.heads % len(merges[0]) == 0
        return torch.stack([loss for _, loss in self.streams.batches(lost, most=SCREENED)]).sum(0)

    def _merged(self, merge: HeadMerge) -> Tensors:
        shape, slot = self.parent.shape, self.family.attention
        merged = {}
        for name, tensor in self.attention.state_dict().items():
            # A norm over the keys of all heads at once has as many channels as they have.
            keys = (self.own.attention.kv_heads or 1) * shape.head_dim
            spans_heads = "k_norm" in name and len(tensor) == keys
            if name.rpartition(".")[0] in slot.maps or spans_heads:
                merged[f"{slot.module}.{name}"] = merge_kv_heads(tensor, merge, shape.head_dim)
        return merged

    def _attention_with(self, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
        """Returns the stock attention with other keys and values."""
        slot = self.family.attention
        state = dict(self.attention.state_dict())
        state |= {name.removeprefix(f"{slot.module}."): t for name, t in tensors.items()}
        kv_heads = len(state[f"{slot.maps[0]}.weight"]) // self.parent.shape.head_dim
        sizes = self.family.layer_config(self.parent.config, Attention("gqa", kv_heads))
        with torch.device("meta"):
            attention: nn.Module = self.family.stock("Attention")(sizes, self.attention.layer_idx)
        attention.load_state_dict(state, assign=True)
        return attention.eval().requires_grad_(False)

    def _context(self, x_BLD: torch.Tensor, attention: nn.Module) -> torch.Tensor:
        """Returns what enters the last map of another attention in the place of the layer's own."""
        return self.family.attention_features(self.layer, x_BLD, self.rope, attention=attention)

    def attention_output(self, attention: Attention, rows: Rows) -> torch.Tensor:
        """Returns what an attention variant adds to the residual stream, float32."""
        if attention.kind == "none":
            return torch.zeros_like(rows.attention)
        prefix = attention_key(attention) + "/"
        stored = self.tensors.items()
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
            self._built[prefix] = self._attention_with(tensors)
        out = nn.functional.linear(self._context(rows.x, self._built[prefix]), weight, bias)
        return self.family.added(self.layer, slot, out, self.parent.config).float()

    def _ffns(self, attention: Attention, ffns: Sequence[FFN]) -> None:
        """Fits the FFNs behind one attention, each to return what that attention leaves missing."""
        if self.own.ffn.width is None:
            self._ffns_of_a_child(attention, ffns)
            return
        width, rescaling = self.own.ffn.width, self._ffn_rescaling
        size = torch.zeros(width, device=self.streams.device)
        down = map_with_bias(self.down.weight, self.down.bias)
        pair = partial(self._ffn_pair, attention)

        def counted(rows: Rows) -> Pair:
            phi, target = self._undone(rescaling, self._own_ffn, pair)(rows)
            size.add_(phi[..., :width].abs().float().sum((0, 1)))
            return phi, target

        wide = self._collect(len(down), counted)
        whole = wide[1].power() if rescaling.neutral else self._power(pair)
        power = whole if attention == self.own.attention else self._update_power()
        order = (size * down[:width].norm(dim=1)).argsort(descending=True)
        sums = FFNSums(attention=attention, wide=wide, down=down, order=order, power=power)
        for ffn in ffns:
            if ffn.kind == "gated":
                self._gated(ffn, sums)
        if any(ffn.kind == "linear" for ffn in ffns):
            self._linear_ffn(attention, power)
        if any(ffn.kind == "none" for ffn in ffns):
            share = whole / max(power, 1e-30)
            self.errors[ffn_key(attention, FFN("none"))] = LocalError(before=share, fitted=share)

    def _ffns_of_a_child(self, attention: Attention, ffns: Sequence[FFN]) -> None:
        """Does what `_ffns` does where the parent, a child itself, has a linear map or no FFN."""

        def missing(rows: Rows) -> Pair:
            return rows.x, rows.update - self.attention_output(attention, rows)

        whole = self._power(missing)
        power = whole if attention == self.own.attention else self._update_power()
        share = whole / max(power, 1e-30)
        for ffn in ffns:
            key = ffn_key(attention, ffn)
            if Block(attention, ffn) == self.own and not self.streams.child:
                self.errors[key] = LocalError(before=0.0, fitted=0.0)
            elif ffn.kind == "none":
                self.errors[key] = LocalError(before=share, fitted=share)
            else:
                self._linear_ffn(attention, power)

    @property
    def _ffn_rescaling(self) -> Rescaling:
        return Rescaling(self.parent, self.layer, self.family.ffn)

    def _ffn_pair(self, attention: Attention, rows: Rows) -> Pair:
        """Returns what enters the map of the FFN behind an attention, and what it should add."""
        added = self.attention_output(attention, rows)
        phi = self.family.ffn_features(self.layer, rows.x + added.to(rows.x.dtype))
        return ones(phi, self.down.bias), rows.update - added

    def _undone(
        self, rescaling: Rescaling, own: Callable[[Rows, torch.Tensor], torch.Tensor], pair: PairOf
    ) -> PairOf:
        """Returns the pairs of the last map alone; `own` gives what the parent's map returns."""
        if rescaling.neutral:
            return pair

        def undone(rows: Rows) -> Pair:
            phi, target = pair(rows)
            return rescaling.undone(own(rows, phi), (phi, target))

        return undone

    def _power(self, pair: PairOf) -> float:
        """Returns the power of the targets of held-out windows."""
        powers = self.streams.batches(lambda rows: float(pair(rows)[1].square().sum()))
        return sum(power for held_out, power in powers if held_out)

    def _update_power(self) -> float:
        powers = self.streams.batches(lambda rows: float(rows.update.square().sum()))
        return sum(power for held_out, power in powers if held_out)

    def _gated(self, ffn: FFN, sums: FFNSums) -> None:
        attention, down, order = sums.attention, sums.down, sums.order
        key = ffn_key(attention, ffn)
        if Block(attention, ffn) == self.own and not self.streams.child:
            self.errors[key] = LocalError(before=0.0, fitted=0.0)
            return
        kept = order[: ffn.width].sort().values
        bias = self.down.bias
        columns = kept if bias is None else torch.cat([kept, kept.new_tensor([len(order)])])

        def pair(rows: Rows) -> Pair:
            phi, target = self._ffn_pair(attention, rows)
            return phi[..., columns], target

        train, held_out = sums.wide[0].columns(columns), sums.wide[1].columns(columns)
        start = down[columns]
        fitted = self._fit(train, held_out, start, start, sums.power)
        weight, self.errors[key] = self._in_the_stream(
            self._ffn_rescaling, pair, start, fitted, sums.power
        )
        self.tensors[f"{key}/channels"] = kept.to(torch.int32)
        self._store(
            key, map_tensors(f"{self.family.ffn.module}.{self.family.ffn.out}", weight, bias)
        )

    def _linear_ffn(self, attention: Attention, power: float) -> None:
        key, slot = ffn_key(attention, FFN("linear")), self.family.ffn
        if self.own.ffn.kind == "linear":
            start = map_of(self.ffn)
        else:
            up = getattr(self.ffn, slot.maps[-1])
            start = (self.down.weight.float() @ up.weight.float()).T

        def features(rows: Rows) -> Pair:
            added = self.attention_output(attention, rows)
            after = rows.x + added.to(rows.x.dtype)
            return self.family.normed(self.layer, slot.before, after), rows.update - added

        sums = self._collect(len(start), features)
        weight, self.errors[key] = self._fit(*sums, start, torch.zeros_like(start), power)
        self._store(key, {f"{slot.module}.linear_proj.weight": weight.T})

    def _collect(self, width: int, pair: Callable[[Rows], Pair]) -> tuple[Moments, HeldOut]:
        """Returns the moments of the fitted windows and the tokens of those held out."""
        train = Moments(width, self.parent.shape.hidden, self.streams.device)
        held_out = HeldOut()
        for late, (phi, target) in self.streams.batches(pair):
            (held_out if late else train).add(phi.flatten(0, 1), target.flatten(0, 1))
        return train, held_out

    def _fit(
        self,
        train: Moments,
        held_out: HeldOut,
        start: torch.Tensor,
        prior: torch.Tensor,
        power: float | None = None,
    ) -> Fitted:
        """Returns a map's weights and error; `start` is the map it is compared with."""
        power = max(held_out.power() if power is None else power, 1e-30)
        before = held_out.error(start) / power
        if self.config.start == "puzzle":
            return start, LocalError(before=before, fitted=before)
        solved = fit(train, held_out, prior, self.config.ridges)
        if before * power < solved.error:
            return start, LocalError(before=before, fitted=before)
        error = LocalError(before=before, fitted=solved.error / power, ridge=solved.ridge)
        return solved.weight, error

    def _store(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            self.tensors[f"{key}/{name}"] = tensor.to(self.parent.dtype)
