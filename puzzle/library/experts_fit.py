"""Fits of mixtures of experts: which experts are kept, and what their last maps become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from puzzle.errors import ParentError
from puzzle.library.elimination import damped, elimination_order
from puzzle.library.fitting import Fitting, ffn_key
from puzzle.library.least_squares import Fit, HeldOut, Moments
from puzzle.library.least_squares import fit as least_squares_fit
from puzzle.library.local_error import LocalError
from puzzle.library.rescaling import Pair, Rescaling
from puzzle.library.streams import Rows
from puzzle.models.experts import (
    Routed,
    down_map,
    down_tensors,
    of_channels,
    of_experts,
    routed,
    shared_output,
)
from puzzle.models.slots import Experts
from search_space import FFN, Attention, Block

if TYPE_CHECKING:
    from puzzle.library.attention_fit import AttentionFit

EXPERTS, EXPERT_CHANNELS = "experts", "expert_channels"
Maps = Mapping[int, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertsSums:
    """What the fits of all widths of some experts share.

    Args:
        attention: What is in front of them.
        kept: The numbers of the experts.
        width: Their channels.
        downs: The last map of each that fits start from, by its place among those kept.
        trained: The moments of each one's tokens of the fitted windows.
        held_out: Each one's tokens of the held-out windows.
    """

    attention: Attention
    kept: torch.Tensor
    width: int
    downs: Mapping[int, torch.Tensor]
    trained: Mapping[int, Moments]
    held_out: Mapping[int, HeldOut]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solved:
    """The last map of an expert, and the channels that enter it."""

    channels: torch.Tensor
    fit: Fit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """A mixture, its channels and last maps, and what it misses.

    Args:
        mixture: Some experts and channels of the parent's.
        channels: The channels of each expert.
        maps: The last map of each.
        judged: The maps that the error is of, fitted without the held-out windows.
        error: The square of what they miss there.
    """

    mixture: nn.Module
    channels: torch.Tensor
    maps: Maps
    judged: Maps
    error: float


class ExpertsFit:
    """Builds the mixtures of one layer that keep some of the parent's experts.

    Experts are ranked by what they add: the mean over tokens of the gate times the length of what
    the expert returns (REAP, arXiv:2510.13999, without its division by the tokens of each). The
    router keeps their rows, so that tokens of removed experts go to others. The last map of each
    kept expert is fitted, on its own tokens, to what it returned and its share by gates of what
    the mixture misses: one pass over the text for all, and sums as large as one expert. Narrower
    experts are chosen and fitted with the same sums: each keeps the channels that elimination
    leaves, or those with the largest mean activation times the norm of their row, whichever does
    better on held-out tokens, and is fitted once more to make up for what the others lost.

    Args:
        fits: The layer.
        attentions: Its attentions, built.
        index: The layer's number.

    Raises:
        ParentError: The family has something after its FFN that the fit does not know.
    """

    def __init__(self, fits: Fitting, attentions: AttentionFit, index: int) -> None:
        self.fits, self.attentions, self.index = fits, attentions, index
        family = fits.family
        if family.experts is None or not Rescaling(fits.parent, fits.layer, family.ffn).neutral:
            raise ParentError(
                f"mixtures of experts of {family.model_types[0]} are not searched: what comes "
                "after them is not taken into account"
            )
        self.family, self.experts = family, family.experts

    def build(self, attention: Attention, ffns: list[FFN], power: float) -> None:
        """Fits mixtures behind one attention; errors are a share of a power."""
        whole: dict[FFN, list[FFN]] = {}
        for ffn in ffns:
            if Block(attention, ffn) == self.fits.own and not self.fits.streams.child:
                self.fits.errors[ffn_key(attention, ffn)] = LocalError(before=0.0, fitted=0.0)
            else:
                whole.setdefault(replace(ffn, width=self.fits.own.ffn.width), []).append(ffn)
        for wide, narrowed in whole.items():
            kept = self.ranking[0][: wide.experts].sort().values
            sums = self._sums(*self._mixture(wide, kept, self.ranking[1]), kept, attention)
            order = self._order(sums, min(ffn.width or 1 for ffn in narrowed))
            for ffn in narrowed:
                self._fit(ffn, sums, order, power)

    @cached_property
    def ranking(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The experts, the one that adds most first, and the channels of each, the same."""
        own: nn.Module = getattr(self.fits.layer, self.family.ffn.module)
        number, width = self.fits.own.ffn.experts or 1, self.fits.own.ffn.width or 1
        size, channels = torch.zeros(number), torch.zeros(number, width)
        downs = self._downs(own, number)

        def add(rows: Rows) -> None:
            h_TD = self._entering(self.fits.own.attention, rows)
            for part in routed(self.experts, own, h_TD):
                down = downs[part.expert]
                size[part.expert] += float((_with_bias(part, down) @ down).norm(dim=-1).sum())
                used = part.features.float().abs().sum(0) * down[:width].norm(dim=1)
                channels[part.expert] += used.cpu()

        for _ in self.fits.streams.batches(add):
            pass
        return (
            size.argsort(descending=True, stable=True),
            channels.argsort(dim=1, descending=True, stable=True),
        )

    def _downs(self, mixture: nn.Module, number: int) -> dict[int, torch.Tensor]:
        return {expert: down_map(self.experts, mixture, expert) for expert in range(number)}

    def _entering(self, attention: Attention, rows: Rows) -> torch.Tensor:
        """Returns what enters the mixture behind an attention, (tokens, hidden)."""
        added = self.attentions.output(attention, rows)
        after = rows.x + added.to(rows.x.dtype)
        return self.family.normed(self.fits.layer, self.family.ffn.before, after).flatten(0, 1)

    def _pair(self, attention: Attention, rows: Rows) -> Pair:
        """Returns what enters the mixture, and what its experts should add, by token."""
        added = self.attentions.output(attention, rows)
        target = (rows.update - added).flatten(0, 1).float()
        h_TD = self._entering(attention, rows)
        mixture = getattr(self.fits.layer, self.family.ffn.module)
        return h_TD, target - shared_output(self.experts, mixture, h_TD).float()

    def _order(self, sums: ExpertsSums, narrowest: int) -> torch.Tensor:
        """Returns the channels of each kept expert, the most worth keeping first."""
        order, width = self.ranking[1][sums.kept].clone(), self.fits.own.ffn.width or 1
        if narrowest == width or not self.fits.config.eliminates:
            return order
        for expert, train in sums.trained.items():
            if train.tokens:
                down, gram = sums.downs[expert], train.gram
                order[expert] = elimination_order(
                    damped(gram),
                    down,
                    train.cross - gram @ down,
                    fixed=len(down) - width,
                    least=narrowest,
                )
        return order

    def _fit(self, ffn: FFN, sums: ExpertsSums, order: torch.Tensor, power: float) -> None:
        width, share = ffn.width or 1, 1 / max(power, 1e-30)
        largest = self.ranking[1][sums.kept, :width].sort(dim=1).values
        start, downs = self._mixture(ffn, sums.kept, largest)
        best = unfitted = self._made(start, largest, downs, downs, sums.attention)
        if self.fits.config.start != "puzzle":
            better = order[:, :width].sort(dim=1).values
            choices = (largest,) if torch.equal(largest, better) else (largest, better)
            best = min(best, self._narrowed(ffn, sums, choices), key=_error_of)
            if width < sums.width:
                again = self._sums(best.mixture, best.judged, sums.kept, sums.attention)
                every = torch.arange(width).expand(len(sums.kept), -1)
                refined = [self._solved(again, expert, (every,)) for expert in best.judged]
                refit = self._with(refined, best.mixture, best.channels, sums.attention)
                best = min(best, refit, key=_error_of)
        key = ffn_key(sums.attention, ffn)
        error = LocalError(before=unfitted.error * share, fitted=best.error * share)
        self.fits.errors[key] = error
        self.fits.tensors[f"{key}/{EXPERTS}"] = sums.kept.to(torch.int32)
        if width < sums.width:
            self.fits.tensors[f"{key}/{EXPERT_CHANNELS}"] = best.channels.to(torch.int32)
        module, maps = self.family.ffn.module, [best.maps[e] for e in range(len(sums.kept))]
        self.fits.store(key, down_tensors(self.experts, module, best.mixture, maps))

    def _narrowed(self, ffn: FFN, sums: ExpertsSums, choices: Sequence[torch.Tensor]) -> Made:
        """Returns the mixture in which each expert has the best of some choices of channels."""
        solved = [self._solved(sums, expert, choices) for expert in sums.downs]
        channels = torch.stack([each.channels for each in solved])
        mixture, _ = self._mixture(ffn, sums.kept, channels)
        return self._with(solved, mixture, channels, sums.attention)

    def _with(
        self,
        solved: Sequence[Solved],
        mixture: nn.Module,
        channels: torch.Tensor,
        attention: Attention,
    ) -> Made:
        """Returns a mixture with last maps that were solved for."""
        maps, judged = (
            {expert: getattr(each.fit, name) for expert, each in enumerate(solved)}
            for name in ("weight", "judged")
        )
        return self._made(mixture, channels, maps, judged, attention)

    def _solved(self, sums: ExpertsSums, expert: int, choices: Sequence[torch.Tensor]) -> Solved:
        """Returns the last map of an expert for the channels that do best on held-out tokens."""
        down, train, held_out = sums.downs[expert], sums.trained[expert], sums.held_out[expert]
        biases = torch.arange(sums.width, len(down), device=down.device)
        solved = []
        for channels in (each[expert] for each in choices):
            columns = torch.cat([channels.to(down.device), biases])
            start = down[columns]
            if not train.tokens or not held_out.phi:
                unfitted = Fit(weight=start, judged=start, error=0.0, prior=0.0, ridge=None)
                return Solved(channels=channels, fit=unfitted)
            kept, judges = train.columns(columns), held_out.columns(columns)
            ridges, final = self.fits.config.ridges, self.fits.final
            fit = least_squares_fit(kept, judges, start, ridges, refit=final)
            solved.append(Solved(channels=channels, fit=fit))
        return min(solved, key=lambda each: each.fit.error)

    def _mixture(
        self, ffn: FFN, kept: torch.Tensor, channels: torch.Tensor
    ) -> tuple[nn.Module, dict[int, torch.Tensor]]:
        """Returns a mixture of some experts and channels of the layer's, and their last maps."""
        module = self.family.ffn.module
        own, prefix = getattr(self.fits.layer, module), f"{module}."
        sizes = self.family.layer_config(self.fits.parent.config, ffn)
        with torch.device("meta"):
            mixture: nn.Module = getattr(self.family.layer(sizes, self.index), module)
        tensors = {prefix + name: tensor for name, tensor in own.state_dict().items()}
        narrow = None if ffn.width == self.fits.own.ffn.width else channels
        tensors = kept_of(self.experts, tensors, module, kept, narrow)
        inner = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        mixture.load_state_dict(inner, assign=True)
        mixture.eval().requires_grad_(False)
        return mixture, self._downs(mixture, len(kept))

    def _sums(
        self, mixture: nn.Module, downs: Maps, kept: torch.Tensor, attention: Attention
    ) -> ExpertsSums:
        """Returns the sums of a mixture, where its last maps are those that are given."""
        hidden, device = self.fits.parent.shape.hidden, self.fits.streams.device
        biased: bool = getattr(mixture, self.experts.experts).has_bias
        width = len(downs[0]) - biased
        trained = {e: Moments(len(down), hidden, device) for e, down in downs.items()}
        held_out: dict[int, HeldOut] = {e: HeldOut() for e in downs}
        pairs = self.fits.streams.batches(lambda rows: self._pair(attention, rows))
        for late, (h_TD, target) in pairs:
            parts = list(routed(self.experts, mixture, h_TD))
            rest, whole = self._rest(parts, downs, target)
            for part in parts:
                phi, down = _with_bias(part, downs[part.expert]), downs[part.expert]
                share = part.gates.float() / whole[part.tokens]
                sums = (held_out if late else trained)[part.expert]
                sums.add(phi, phi.float() @ down + share * rest[part.tokens])
        return ExpertsSums(
            attention=attention,
            kept=kept,
            width=width,
            downs=downs,
            trained=trained,
            held_out=held_out,
        )

    def _rest(
        self, parts: list[Routed], downs: Maps, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what the mixture misses of its target, and the sum of each token's gates."""
        rest, whole = target.clone(), target.new_full((len(target), 1), 1e-30)
        for part in parts:
            down = downs[part.expert]
            rest.index_add_(0, part.tokens, -(_with_bias(part, down).float() @ down))
            whole.index_add_(0, part.tokens, part.gates.float())
        return rest, whole

    def _made(
        self,
        mixture: nn.Module,
        channels: torch.Tensor,
        maps: Maps,
        judged: Maps,
        attention: Attention,
    ) -> Made:
        error = self._error(mixture, judged, attention)
        return Made(mixture=mixture, channels=channels, maps=maps, judged=judged, error=error)

    def _error(self, mixture: nn.Module, downs: Maps, attention: Attention) -> float:
        """Returns the square of what the mixture misses with other last maps, held out."""
        missed = 0.0
        pairs = self.fits.streams.batches(
            lambda rows: self._pair(attention, rows), held_out_only=True
        )
        for _, (h_TD, target) in pairs:
            parts = list(routed(self.experts, mixture, h_TD))
            missed += float(self._rest(parts, downs, target)[0].square().sum())
        return missed


def kept_of(
    experts: Experts,
    tensors: Mapping[str, torch.Tensor],
    module: str,
    kept: torch.Tensor,
    narrow: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    """Returns the tensors of half a layer with some of its experts, and of their channels."""
    inner = of_experts(tensors, module, kept)
    return inner if narrow is None else of_channels(experts, inner, module, narrow)


def _error_of(made: Made) -> float:
    return made.error


def _with_bias(part: Routed, down: torch.Tensor) -> torch.Tensor:
    """Returns the features of an expert's tokens, with the gate where the map has a bias."""
    biased = len(down) > part.features.shape[-1]
    features: Any = torch.cat([part.features, part.gates], dim=-1) if biased else part.features
    whole: torch.Tensor = features.float()
    return whole
