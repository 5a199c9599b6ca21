"""One layer's variants: its attentions, then the FFNs that are fitted behind them."""

from __future__ import annotations

from collections.abc import Iterable

from puzzle.library.attention_fit import AttentionFit
from puzzle.library.ffn_fit import FFNFit
from puzzle.library.fitting import Fitting, attention_key
from search_space import FFN, Attention, Block


class LayerFit:
    """Builds every variant of one layer.

    Args:
        fits: The layer; its `tensors` and `errors` are filled.
    """

    def __init__(self, fits: Fitting) -> None:
        self.fits, self.attentions = fits, AttentionFit(fits)
        self.ffns = FFNFit(fits, self.attentions)

    def build(self, blocks: Iterable[Block], *, final: Block | None = None) -> None:
        """Makes the variants that some blocks need, into `tensors` and `errors`.

        Args:
            blocks: The blocks, without formats.
            final: As for `Fitting`: FFNs are fitted behind its attention as it is rounded.
        """
        wanted = tuple(dict.fromkeys(blocks))
        for attention in dict.fromkeys(block.attention for block in wanted):
            self.attentions.build(attention)
        self.attentions.release()
        if final is not None:
            self.fits.round_stored(attention_key(final.attention), final.attention.weights)
        for attention, ffns in self.groups(wanted).items():
            self.ffns.build(attention, ffns)

    def groups(self, blocks: Iterable[Block]) -> dict[Attention, tuple[FFN, ...]]:
        """Returns the FFNs to make by the attention they are fitted behind."""
        ffns_behind: dict[Attention, dict[FFN, None]] = {}
        for block in blocks:
            # Where a child's stream enters, every FFN has something to make up for.
            coupled = self.fits.streams.child or self.fits.config.coupled(block.attention)
            behind = block.attention if coupled else self.fits.own.attention
            ffns_behind.setdefault(behind, {})[block.ffn] = None
        return {attention: tuple(ffns) for attention, ffns in ffns_behind.items()}
