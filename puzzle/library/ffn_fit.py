"""One layer's FFN variants: initialised from the parent and fitted in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch

from puzzle.library.affine import map_of, map_tensors, map_with_bias, ones
from puzzle.library.attention_fit import AttentionFit
from puzzle.library.elimination import damped, elimination_order
from puzzle.library.experts_fit import ExpertsFit
from puzzle.library.fitting import Fitted, Fitting, ffn_key
from puzzle.library.least_squares import HeldOut, Moments
from puzzle.library.local_error import LocalError
from puzzle.library.rescaling import Pair, Rescaling
from puzzle.library.streams import Rows
from puzzle.models.slots import UP
from search_space import FFN, Attention, Block


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FFNSums:
    """What the fits of all widths of the FFN behind one attention share.

    Args:
        attention: The attention.
        wide: The moments of the fitted windows and the tokens of those held out, of all channels.
        down: The parent's last map, (channels, hidden), its bias as one more row.
        order: Channels, the most worth keeping first.
        largest: Channels, those with the largest mean activation times the norm of their row first.
        power: What errors are a share of.
    """

    attention: Attention
    wide: tuple[Moments, HeldOut]
    down: torch.Tensor
    order: torch.Tensor
    largest: torch.Tensor
    power: float


class FFNFit:
    """Builds the FFN variants of one layer, each behind one of its attentions.

    Args:
        fits: The layer.
        attentions: Its attentions, built.
    """

    def __init__(self, fits: Fitting, attentions: AttentionFit) -> None:
        self.fits, self.attentions = fits, attentions
        self.layer, self.own, self.streams = fits.layer, fits.own, fits.streams
        self.family = fits.family
        slot = self.family.ffn
        self.ffn: Any = getattr(fits.layer, slot.module, None)
        self.down: Any = getattr(self.ffn, slot.out, None)

    def build(self, attention: Attention, ffns: Sequence[FFN]) -> None:
        """Fits the FFNs behind one attention, each to return what that attention leaves missing."""
        if self.own.ffn.kind != "gated":
            self._around(attention, ffns)
            return
        width, rescaling = self.own.ffn.width or 0, self._rescaling
        size = torch.zeros(width, device=self.streams.device)
        down = map_with_bias(self.down.weight, self.down.bias)
        pair = partial(self._pair, attention)

        def counted(rows: Rows) -> Pair:
            phi, target = self.fits.undone(rescaling, self._own, pair)(rows)
            size.add_(phi[..., :width].abs().float().sum((0, 1)))
            return phi, target

        # Of the map alone; a norm behind it weights tokens, and its gain is kept off zero.
        own = attention == self.own.attention and not self.streams.child
        own = own and self.family.ffn.after is None
        wide = self.fits.collect(len(down), counted, down if own else None)
        whole = wide[1].power() if rescaling.neutral else self.fits.power(pair)
        power = whole if attention == self.own.attention else self.fits.update_power()
        largest = (size * down[:width].norm(dim=1)).argsort(descending=True)
        narrowest = min((ffn.width or width for ffn in ffns if ffn.kind == "gated"), default=width)
        order = largest
        if narrowest < width and self.fits.config.eliminates:
            order = self._eliminated(wide[0], down, narrowest, returned=own)
        sums = FFNSums(
            attention=attention, wide=wide, down=down, order=order, largest=largest, power=power
        )
        for ffn in ffns:
            if ffn.kind == "gated":
                self._gated(ffn, sums)
        if any(ffn.kind == "linear" for ffn in ffns):
            self._linear(attention, power)
        if any(ffn.kind == "none" for ffn in ffns):
            share = whole / max(power, 1e-30)
            self.fits.errors[ffn_key(attention, FFN("none"))] = LocalError(
                before=share, fitted=share
            )

    def _eliminated(
        self, train: Moments, down: torch.Tensor, narrowest: int, *, returned: bool
    ) -> torch.Tensor:
        """Returns the channels in the order of elimination, down to the narrowest width.

        Args:
            train: The moments.
            down: The parent's last map.
            narrowest: The narrowest width.
            returned: Whether that map returns the targets.
        """
        residual = None if returned else train.cross - train.gram @ down
        curvature, fixed = damped(train.gram), len(down) - (self.own.ffn.width or 0)
        with train.set_aside():
            order = elimination_order(curvature, down, residual, fixed=fixed, least=narrowest)
        return order.to(down.device)

    def _around(self, attention: Attention, ffns: Sequence[FFN]) -> None:
        """Does what `build` does where the parent has experts, or a linear map, or no FFN."""

        def missing(rows: Rows) -> Pair:
            return rows.x, rows.update - self.attentions.output(attention, rows)

        whole = self.fits.power(missing)
        power = whole if attention == self.own.attention else self.fits.update_power()
        share = whole / max(power, 1e-30)
        for ffn in ffns:
            key = ffn_key(attention, ffn)
            if Block(attention, ffn) == self.own and not self.streams.child:
                self.fits.errors[key] = LocalError(before=0.0, fitted=0.0)
            elif ffn.kind == "none":
                self.fits.errors[key] = LocalError(before=share, fitted=share)
            elif ffn.kind == "linear":
                self._linear(attention, power)
        mixtures = [ffn for ffn in ffns if ffn.kind == "moe"]
        if mixtures:
            self.mixtures.build(attention, mixtures, power)

    @cached_property
    def mixtures(self) -> ExpertsFit:
        """The fits of mixtures of experts."""
        return ExpertsFit(self.fits, self.attentions, self.fits.index)

    @property
    def _rescaling(self) -> Rescaling:
        return Rescaling(self.fits.parent, self.layer, self.family.ffn)

    def _pair(self, attention: Attention, rows: Rows) -> Pair:
        """Returns what enters the map of the FFN behind an attention, and what it should add."""
        added = self.attentions.output(attention, rows)
        phi = rows.features if attention == self.own.attention else None
        if phi is None:
            phi = self.family.ffn_features(self.layer, rows.x + added.to(rows.x.dtype))
        return ones(phi, self.down.bias), rows.update - added

    def _own(self, _: Rows, phi: torch.Tensor) -> torch.Tensor:
        own: torch.Tensor = self.down(phi[..., : self.own.ffn.width])
        return own

    def _gated(self, ffn: FFN, sums: FFNSums) -> None:
        key = ffn_key(sums.attention, ffn)
        if Block(sums.attention, ffn) == self.own and not self.streams.child:
            self.fits.errors[key] = LocalError(before=0.0, fitted=0.0)
            return
        kept = sums.order[: ffn.width].sort().values
        fitted = self._narrowed(kept, sums)
        if sums.order is not sums.largest:
            plain = sums.largest[: ffn.width].sort().values
            before = self._narrowed(plain, sums, fitted=False).error.before
            if before < fitted.error.fitted:
                kept = plain
                fitted = self._narrowed(kept, sums)
            fitted = replace(fitted, error=replace(fitted.error, before=before))
        self.fits.errors[key] = fitted.error
        self.fits.tensors[f"{key}/channels"] = kept.to(torch.int32)
        name = f"{self.family.ffn.module}.{self.family.ffn.out}"
        self.fits.store(key, map_tensors(name, fitted.weight, self.down.bias))

    def _narrowed(self, kept: torch.Tensor, sums: FFNSums, *, fitted: bool = True) -> Fitted:
        """Returns the last map of some channels, fitted or as it is, and its errors."""
        wide, bias = len(sums.order), self.down.bias
        columns = kept if bias is None else torch.cat([kept, kept.new_tensor([wide])])

        def pair(rows: Rows) -> Pair:
            phi, target = self._pair(sums.attention, rows)
            return phi[..., columns], target

        start, held_out = sums.down[columns], sums.wide[1].columns(columns)
        if fitted:
            fit = self.fits.fit(sums.wide[0].columns(columns), held_out, start, start, sums.power)
        else:
            missed = held_out.error(start) / max(sums.power, 1e-30)
            fit = self.fits.unfitted(start, missed)
        return self.fits.in_the_stream(self._rescaling, pair, start, fit, sums.power)

    def _linear(self, attention: Attention, power: float) -> None:
        key, slot = ffn_key(attention, FFN("linear")), self.family.ffn
        if self.own.ffn.kind == "linear":
            start = map_of(self.ffn)
        elif self.own.ffn.kind == "moe":
            hidden = self.fits.parent.shape.hidden
            start = torch.zeros(hidden, hidden, device=self.streams.device)
        else:
            sizes = self.family.row_counts(self.fits.parent.shape, self.own.ffn)
            up = slot.part(self.ffn.state_dict(), UP, sizes)["weight"]
            scale = self.family.residual_scale(self.fits.parent.config)
            start = (self.down.weight.float() @ up.float()).T * scale

        def features(rows: Rows) -> Pair:
            added = self.attentions.output(attention, rows)
            after = rows.x + added.to(rows.x.dtype)
            return self.family.normed(self.layer, slot.before, after), rows.update - added

        sums = self.fits.collect(len(start), features)
        fitted = self.fits.fit(*sums, start, torch.zeros_like(start), power)
        self.fits.errors[key] = fitted.error
        self.fits.store(key, {f"{slot.module}.linear_proj.weight": fitted.weight.T})
