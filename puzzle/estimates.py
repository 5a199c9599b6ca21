"""What stages take, estimated before they run.

Counts are exact: blocks, tokens, parameters and products. Seconds follow from them by the rates
of `puzzle.hardware.rates`; the machine's other work, and caches, make the truth differ by a factor
of about two.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import psutil

from puzzle.hardware.rates import Rates
from puzzle.limits.scenario import Scenario
from puzzle.models.boundaries import ACTIVATION_BYTES
from puzzle.text.data_config import DataConfig
from search_space import Block, Layout, ModelShape, counting

# Distributions over the vocabulary are kept up to this size.
LOGITS_BYTES = 2.0**29


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What one stage takes.

    Args:
        name: The stage.
        work: What it does, counted.
        seconds: How long it takes.
        memory: Bytes of memory at its peak, including those already in use; on a GPU, of the
            GPU's, and the host needs little more than a layer besides.
        disk: Bytes that it leaves in the run directory.
        alone: Seconds of these that no executor shares out.
        jobs: Independent jobs into which an executor divides the rest.
        reads: Bytes of weights that are read from the storage.
        hashed: Bytes that are hashed on one thread.
        scratch: Bytes of temporary files at their peak: streams between layers, which the
            system keeps in memory where there is room.
    """

    name: str
    work: str
    seconds: float
    memory: float
    disk: float
    alone: float = 0.0
    jobs: int = 1
    reads: float = 0.0
    hashed: float = 0.0
    scratch: float = 0.0


def _used_memory() -> float:
    return float(psutil.Process(os.getpid()).memory_info().rss)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What estimates are made from: no parent is opened and no text is read for them.

    Args:
        shape: The parent's sizes.
        data: How much text is used.
        scenario: The first scenario.
        rates: How fast this machine is.
        held_out: Share of the fit text that chooses ridges.
        used: Bytes of memory that this process already uses.
        room: Bytes of memory of the device that stages run on; stages that can do with less
            memory, more slowly, keep to it.
        on_gpu: Whether that is a GPU, which puts aside in the host's memory what it can.
        workers: Processes of an executor; 0 for none.
        library: Bytes of the library, which scores and layouts read.
    """

    shape: ModelShape
    data: DataConfig
    scenario: Scenario
    rates: Rates
    held_out: float = 0.125
    used: float = field(default_factory=_used_memory)
    room: float = math.inf
    on_gpu: bool = False
    workers: int = 0
    library: float = 0.0

    @property
    def own(self) -> Layout:
        """The parent's layout."""
        return Layout.parent(self.shape)

    @property
    def weight_bytes(self) -> int:
        """Bytes of one weight."""
        return self.scenario.weight_bytes

    @property
    def weights(self) -> float:
        """Bytes of the parent's weights."""
        return float(self.own.parameters() * self.weight_bytes)

    def tokens(self, part: str) -> int:
        """Returns how many tokens a part of the text has."""
        return self.data.windows(part) * self.data.window

    @property
    def for_healing(self) -> Sizes:
        """The same with the tokens of healing as those of fits."""
        tokens = self.data.healing_windows * self.data.window
        return replace(self, data=replace(self.data, fit_tokens=tokens))

    def forward(self, tokens: int, blocks: Iterable[Block]) -> float:
        """Returns the seconds that blocks take to read windows of text."""
        pairs = tokens * (self.data.window + 1) // 2
        flops = (counting.block_flops(self.shape, b, tokens=tokens, pairs=pairs) for b in blocks)
        return sum(flops) / self.rates.model

    def head(self, tokens: int) -> float:
        """Returns the seconds of logits and their softmax, which moves them about six times."""
        flops = counting.head_flops(self.shape) * tokens / self.rates.model
        return flops + 6 * 4.0 * self.shape.vocab * tokens / self.rates.bandwidth

    def whole(self, tokens: int) -> float:
        """Returns the seconds that the parent takes to read windows of text."""
        return self.forward(tokens, self.own.blocks) + self.head(tokens)

    def stream(self, part: str) -> float:
        """Returns the bytes of the residual stream of a part of the text at one boundary."""
        return float(self.tokens(part) * self.shape.hidden * self.weight_bytes)

    def opening(self) -> Estimate:
        """Returns what opening the parent takes: it is read once, for hash and finite values."""
        return Estimate(
            name="opening",
            work=f"{self.weights / 1e9:.3g} GB hashed",
            seconds=0.0,
            memory=self.used,
            disk=0.0,
            reads=self.weights,
            hashed=self.weights,
        )

    @property
    def layer(self) -> float:
        """Bytes of the largest layer's weights."""
        blocks = self.shape.parent_blocks
        largest = max(counting.block_parameters(self.shape, block) for block in blocks)
        return float(largest * self.weight_bytes)

    @property
    def pass_memory(self) -> float:
        """Bytes of a pass that holds one layer, or the head, and one batch at a time."""
        shape, window = self.shape, self.data.window
        widest = max(shape.ffn_width, shape.heads * shape.head_dim, shape.hidden)
        batch = max(float(ACTIVATION_BYTES), 4.0 * window * widest * self.weight_bytes)
        text = 4.0 * self.weight_bytes * widest * self.tokens("fit")
        # Logits of a window, in float32: the model's, their exponentials, and the like.
        table = shape.hidden * shape.vocab * self.weight_bytes
        logits = 6 * 4.0 * shape.vocab * window
        return self.used + max(self.layer + min(batch, text), logits) + table

    def logits(self, tokens: int) -> float:
        """Returns the bytes of the distributions that are kept."""
        return min(LOGITS_BYTES, 8.0 * self.shape.vocab * tokens)
