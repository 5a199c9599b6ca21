"""Fits of mixtures of experts: which experts are kept, and what their last maps become."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from puzzle.errors import ParentError
from puzzle.library.fitting import Fitting, ffn_key
from puzzle.library.least_squares import HeldOut, Moments
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


class ExpertsFit:
    """Builds the mixtures of one layer that keep some of the parent's experts.

    Experts are ranked by what they add: the mean over tokens of the gate times the length of what
    the expert returns (REAP, arXiv:2510.13999, without its division by the tokens of each). The
    router keeps their rows, so that tokens of removed experts go to others. Narrower experts keep
    the channels with the largest mean activation times the norm of their row. Then the last map of
    each kept expert is fitted, on its own tokens, to what it returned and its share by gates of
    what the mixture misses: one pass over the text for all, and sums as large as one expert.

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
        for ffn in ffns:
            key = ffn_key(attention, ffn)
            if Block(attention, ffn) == self.fits.own and not self.fits.streams.child:
                self.fits.errors[key] = LocalError(before=0.0, fitted=0.0)
            else:
                self._fit(key, attention, ffn, power)

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

    def _fit(self, key: str, attention: Attention, ffn: FFN, power: float) -> None:
        ranked, channels = self.ranking
        kept = ranked[: ffn.experts].sort().values
        narrow = None
        if ffn.width != self.fits.own.ffn.width:
            narrow = channels[kept, : ffn.width].sort(dim=1).values
        mixture, downs = self._mixture(ffn, kept, narrow)
        trained, held_out, before = self._sums(mixture, downs, attention)
        fitted, judged = dict(downs), dict(downs)
        if self.fits.config.start != "puzzle":
            for expert, start in downs.items():
                if trained[expert].tokens and held_out[expert].phi:
                    solved = least_squares_fit(
                        trained[expert],
                        held_out[expert],
                        start,
                        self.fits.config.ridges,
                        refit=self.fits.final,
                    )
                    fitted[expert], judged[expert] = solved.weight, solved.judged
        after = self._error(mixture, judged, attention)
        if after >= before:
            fitted, after = downs, before
        share = 1 / max(power, 1e-30)
        self.fits.errors[key] = LocalError(before=before * share, fitted=after * share)
        self.fits.tensors[f"{key}/{EXPERTS}"] = kept.to(torch.int32)
        if narrow is not None:
            self.fits.tensors[f"{key}/{EXPERT_CHANNELS}"] = narrow.to(torch.int32)
        maps = [fitted[expert] for expert in range(len(kept))]
        module = self.family.ffn.module
        self.fits.store(key, down_tensors(self.experts, module, mixture, maps))

    def _mixture(
        self, ffn: FFN, kept: torch.Tensor, narrow: torch.Tensor | None
    ) -> tuple[nn.Module, dict[int, torch.Tensor]]:
        """Returns a mixture of some of the layer's experts, and their last maps."""
        module = self.family.ffn.module
        own, prefix = getattr(self.fits.layer, module), f"{module}."
        sizes = self.family.layer_config(self.fits.parent.config, ffn)
        with torch.device("meta"):
            mixture: nn.Module = getattr(self.family.layer(sizes, self.index), module)
        tensors = {prefix + name: tensor for name, tensor in own.state_dict().items()}
        tensors = kept_of(self.experts, tensors, module, kept, narrow)
        inner = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        mixture.load_state_dict(inner, assign=True)
        mixture.eval().requires_grad_(False)
        return mixture, self._downs(mixture, len(kept))

    def _sums(
        self, mixture: nn.Module, downs: Maps, attention: Attention
    ) -> tuple[dict[int, Moments], dict[int, HeldOut], float]:
        """Returns the moments and the held-out tokens of each expert, and the held-out error."""
        hidden, device = self.fits.parent.shape.hidden, self.fits.streams.device
        trained = {e: Moments(len(down), hidden, device) for e, down in downs.items()}
        held_out: dict[int, HeldOut] = {e: HeldOut() for e in downs}
        missed = 0.0
        pairs = self.fits.streams.batches(lambda rows: self._pair(attention, rows))
        for late, (h_TD, target) in pairs:
            parts = list(routed(self.experts, mixture, h_TD))
            rest, whole = self._rest(parts, downs, target)
            missed += float(rest.square().sum()) if late else 0.0
            for part in parts:
                phi, down = _with_bias(part, downs[part.expert]), downs[part.expert]
                share = part.gates.float() / whole[part.tokens]
                sums = (held_out if late else trained)[part.expert]
                sums.add(phi, phi.float() @ down + share * rest[part.tokens])
        return trained, held_out, missed

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


def _with_bias(part: Routed, down: torch.Tensor) -> torch.Tensor:
    """Returns the features of an expert's tokens, with the gate where the map has a bias."""
    biased = len(down) > part.features.shape[-1]
    features: Any = torch.cat([part.features, part.gates], dim=-1) if biased else part.features
    whole: torch.Tensor = features.float()
    return whole
