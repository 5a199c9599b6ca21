"""What the fits of one layer's variants share: sums over the text, solutions, errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from puzzle.library.least_squares import HeldOut, Moments
from puzzle.library.least_squares import fit as least_squares_fit
from puzzle.library.local_error import LocalError
from puzzle.library.rescaling import Pair, Rescaling
from puzzle.library.settings import LibraryConfig
from puzzle.library.streams import Rows, Streams
from puzzle.models.parent import Parent
from puzzle.models.weight_rounding import rounded_to
from search_space import FFN, Attention, Block

Tensors = dict[str, torch.Tensor]
PairOf = Callable[[Rows], Pair]


def attention_key(attention: Attention) -> str:
    """Returns the name of an attention variant, which is stored before it is quantised."""
    return f"attention/{attention.unquantised.label}"


def ffn_key(attention: Attention, ffn: FFN) -> str:
    """Returns the name of the FFN that goes with an attention; stored before it is quantised."""
    return f"ffn/{attention.unquantised.label}/{ffn.unquantised.label}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A fitted map.

    Args:
        weight: The map, (k, d).
        judged: The map that the error is of, fitted without the held-out windows.
        error: On these.
    """

    weight: torch.Tensor
    judged: torch.Tensor
    error: LocalError


class Fitting:
    """One layer, its text, and the variants made so far.

    Args:
        parent: The parent.
        index: The layer's number.
        layer: The parent's layer, loaded.
        streams: What enters the layer, and what it should return.
        config: How variants are made.
        final: The block that a child gets, with its formats: nothing is chosen with the held-out
            windows any more once ridges are, so that they are fitted, too, and what comes behind a
            map that is rounded makes up for that.
    """

    def __init__(
        self,
        parent: Parent,
        index: int,
        layer: nn.Module,
        streams: Streams,
        config: LibraryConfig,
        *,
        final: Block | None = None,
    ) -> None:
        self.parent, self.streams, self.config = parent, streams, config
        self.final = final is not None
        self.layer: Any = layer
        self.index = index
        self.own = parent.shape.parent_blocks[index]
        self.family, self.rope = parent.family, parent.rope(streams.x.shape[1])
        self.tensors: Tensors = {}
        self.errors: dict[str, LocalError] = {}
        if final is not None:
            self._round_inputs(final)

    def _round_inputs(self, block: Block) -> None:
        """Gives all but the last maps of the layer's halves the values of a block's formats."""
        attention, own = block.attention, self.own.attention
        # Merged heads are rounded once they are merged.
        merged = attention.kv_heads != own.kv_heads and attention.heads == own.heads
        slots = [(self.family.mixing(own), None if merged else attention.weights)]
        for slot, weights in (*slots, (self.family.ffn, block.ffn.weights)):
            if weights is not None:
                half = getattr(self.layer, slot.module)
                last = f"{slot.out}.weight"
                inputs = {n: tensor for n, tensor in half.state_dict().items() if n != last}
                half.load_state_dict(rounded_to(inputs, weights), strict=False, assign=True)

    def round_stored(self, key: str, weights: str | None) -> None:
        """Gives the matrices of a variant that is stored the values of a format, if it has one."""
        if weights is None:
            return
        prefix = f"{key}/"
        stored = {name: t for name, t in self.tensors.items() if name.startswith(prefix)}
        for name, tensor in rounded_to(stored, weights).items():
            self.tensors[name] = tensor

    def in_the_stream(
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
            for at, weight in enumerate((start, fitted.judged)):
                out = (phi.float() @ weight).to(self.parent.dtype)
                missed[at] += float((rescaling.added(out).float() - target).square().sum())
        before, after = (value / max(power or targets, 1e-30) for value in missed)
        if before <= after:
            return self.unfitted(start, before)
        return replace(fitted, error=replace(fitted.error, before=before, fitted=after))

    @staticmethod
    def unfitted(start: torch.Tensor, error: float) -> Fitted:
        """Returns the map that a fit starts from, as it is."""
        return Fitted(weight=start, judged=start, error=LocalError(before=error, fitted=error))

    def undone(
        self, rescaling: Rescaling, own: Callable[[Rows, torch.Tensor], torch.Tensor], pair: PairOf
    ) -> PairOf:
        """Returns the pairs of the last map alone; `own` gives what the parent's map returns."""
        if rescaling.neutral:
            return pair

        def undone(rows: Rows) -> Pair:
            phi, target = pair(rows)
            return rescaling.undone(own(rows, phi), (phi, target))

        return undone

    def power(self, pair: PairOf) -> float:
        """Returns the power of the targets of held-out windows."""
        powers = self.streams.batches(lambda rows: float(pair(rows)[1].square().sum()))
        return sum(power for held_out, power in powers if held_out)

    def update_power(self) -> float:
        """Returns the power of what the layer adds in held-out windows."""
        powers = self.streams.batches(lambda rows: float(rows.update.square().sum()))
        return sum(power for held_out, power in powers if held_out)

    def collect(
        self, width: int, pair: PairOf, returned_by: torch.Tensor | None = None
    ) -> tuple[Moments, HeldOut]:
        """Returns the moments of the fitted windows and the tokens of those held out.

        Args:
            width: Features.
            pair: Features and targets of some windows.
            returned_by: The map that returns the targets, if there is one.
        """
        train = Moments(width, self.parent.shape.hidden, self.streams.device)
        held_out = HeldOut()
        for late, (phi, target) in self.streams.batches(pair):
            phi_TK, y_TD = phi.flatten(0, 1), target.flatten(0, 1)
            if late:
                held_out.add(phi_TK, y_TD)
            else:
                train.add(phi_TK, y_TD if returned_by is None else None)
        if returned_by is not None:
            train.returned_by(returned_by)
        return train, held_out

    def fit(
        self,
        train: Moments,
        held_out: HeldOut,
        start: torch.Tensor,
        prior: torch.Tensor,
        power: float | None = None,
    ) -> Fitted:
        """Returns a map's weights and error; `start` is the map it is compared with."""
        power = max(held_out.power() if power is None else power, 1e-30)
        if self.config.start == "puzzle":
            return self.unfitted(start, held_out.error(start) / power)
        solved = least_squares_fit(train, held_out, prior, self.config.ridges, refit=self.final)
        missed = solved.prior if start is prior else held_out.error(start)
        if missed < solved.error:
            return self.unfitted(start, missed / power)
        error = LocalError(before=missed / power, fitted=solved.error / power, ridge=solved.ridge)
        return Fitted(weight=solved.weight, judged=solved.judged, error=error)

    def store(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keeps tensors of a variant in the parent's number format."""
        for name, tensor in tensors.items():
            self.tensors[f"{key}/{name}"] = tensor.to(self.parent.dtype)
