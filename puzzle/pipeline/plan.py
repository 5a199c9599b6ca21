"""What a search will take of time, memory and disk, estimated before it runs.

Counts are exact: blocks, tokens, parameters and products of every stage. Seconds follow from
them by two rates of this machine, measured in about a second; what else is assumed is said in
`ASSUMED`. The machine's other work, and caches, make the truth differ by a factor of about two.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from puzzle.choice.layout_choice import EFFORTS
from puzzle.costs.checked import layout_cost
from puzzle.costs.device_specs import DeviceSpec
from puzzle.costs.roofline import Efficiency, Roofline
from puzzle.hardware.fast_format import fast_format
from puzzle.hardware.precision import AUTO
from puzzle.library.settings import LibraryConfig
from puzzle.limits.scenario import Scenario
from puzzle.scoring.fisher import FisherConfig
from puzzle.scoring.hybrid import HybridConfig
from puzzle.text.windows import DataConfig
from search_space import FFN, Attention, Block, Layout, ModelShape, SearchSpace, counting

STAGES = ("costs", "library", "scores", "choice", "measurement")
ASSUMED = (
    "nothing is in the run directory yet, and no gradient steps are taken for the library",
    "a sublayer takes 0.1 ms of overhead in each pass",
    "Fisher scores take all their rounds of probes; where scores are hybrid, a tenth are exact",
)
OVERHEAD, EXACT_SHARE = 1e-4, 0.1
COST_ROUNDS, DECODE_STEPS, SPEED_ROUNDS = 8, 8, 6
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_EMPTY = Block(Attention("none"), FFN("none"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast this machine computes and moves.

    Args:
        model: Operations per second of products in the model's number format.
        fits: The same in float32, in which variants are fitted.
        bandwidth: Bytes per second.
    """

    model: float
    fits: float
    bandwidth: float

    @classmethod
    def measure(cls, shape: ModelShape, dtype: str) -> Rates:
        """Times a product of the parent's FFN, and a copy, for about a second in all."""
        tokens = 512
        rates = []
        for number_format in (_DTYPES[dtype], torch.float32):
            x = torch.randn(tokens, shape.hidden).to(number_format)
            weight = torch.randn(shape.hidden, shape.ffn_width).to(number_format)
            flops = 2.0 * tokens * shape.hidden * shape.ffn_width
            rates.append(flops / _seconds(lambda x=x, w=weight: x @ w))  # type: ignore[misc]
        much, target = torch.zeros(2**25), torch.zeros(2**25)
        copy = _seconds(lambda: target.copy_(much))
        return cls(model=rates[0], fits=rates[1], bandwidth=2.0 * much.nbytes / copy)


def _seconds(run: Callable[[], Any], budget: float = 0.3) -> float:
    """Returns the shortest of the runs that fit into a time; the first is a warm-up."""
    run()
    best, end = math.inf, time.perf_counter() + budget
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage.

    Args:
        name: One of `STAGES`.
        work: What it does, counted.
        seconds: Estimate of its time.
        memory: Estimate of the bytes in memory at its peak, with those in use already.
        disk: Estimate of the bytes that it leaves in the run directory.
    """

    name: str
    work: str
    seconds: float
    memory: float
    disk: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What stages will take.

    Args:
        steps: The stages in their order.
        rates: The rates that the seconds follow from.
    """

    steps: tuple[Step, ...]
    rates: Rates

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(step.seconds for step in self.steps)

    @property
    def memory(self) -> float:
        """Of the stage that needs most."""
        return max((step.memory for step in self.steps), default=0.0)

    @property
    def disk(self) -> float:
        """Of all stages together."""
        return sum(step.disk for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "steps": [asdict(step) for step in self.steps],
            "seconds": self.seconds,
            "memory": self.memory,
            "disk": self.disk,
            "rates": asdict(self.rates),
            "assumed": list(ASSUMED),
        }


def plan(
    space: SearchSpace,
    scenario: Scenario,
    data: DataConfig,
    *,
    stages: Collection[str] = STAGES,
    effort: str = "default",
    scores: str | None = None,
    library: LibraryConfig | None = None,
    working: str = AUTO,
    rates: Rates | None = None,
) -> Plan:
    """Estimates what the stages of a search take, without a model or a text.

    Args:
        space: The alternatives of each layer.
        scenario: The scenario.
        data: How much text.
        stages: Those of `STAGES` that are run.
        effort: As in `puzzle.search`.
        scores: "fisher", "hybrid" or "exact"; by default the effort's.
        library: How variants are made.
        working: The number format that the parent runs in, as in `Precision`.
        rates: The machine's rates; measured if not given.

    Example:
        >>> shape = ModelShape(layers=2, hidden=64, heads=4, head_dim=16, kv_heads=2,
        ...                    ffn_width=256, vocab=100)
        >>> found = plan(SearchSpace.preset(shape, "small"), Scenario(), DataConfig(),
        ...              rates=Rates(model=1e11, fits=1e11, bandwidth=1e10))
        >>> [step.name for step in found.steps]
        ['costs', 'library', 'scores', 'choice', 'measurement']
    """
    if rates is None:
        rates = Rates.measure(space.shape, fast_format().name if working == AUTO else working)
    counts = _Counts(space, scenario, data, rates, library or LibraryConfig())
    steps = {
        "costs": counts.costs,
        "library": counts.library,
        "scores": lambda: counts.scores(scores or EFFORTS[effort].scores),
        "choice": lambda: counts.choice(effort),
        "measurement": counts.measurement,
    }
    wanted = tuple(make() for name, make in steps.items() if name in stages)
    return Plan(steps=wanted, rates=rates)


class _Counts:
    """Counts the work of each stage."""

    def __init__(
        self,
        space: SearchSpace,
        scenario: Scenario,
        data: DataConfig,
        rates: Rates,
        config: LibraryConfig,
    ) -> None:
        self.space, self.shape, self.scenario = space, space.shape, scenario
        self.data, self.rates, self.config = data, rates, config
        self.own = Layout.parent(space.shape)
        self.blocks = [space.blocks(layer) for layer in range(space.shape.layers)]
        self.replaced = sum(len(row) - 1 for row in self.blocks)
        self.used = float(psutil.Process(os.getpid()).memory_info().rss)
        self.weights = float(self.own.parameters() * scenario.weight_bytes)
        flops = {"float32": rates.fits, "bfloat16": rates.model}
        here = DeviceSpec(
            name="here", flops=flops, memory=math.inf, bandwidth=rates.bandwidth, source="measured"
        )
        measured = Efficiency(compute=1.0, memory=1.0, launch=OVERHEAD)
        self.roofline = Roofline(here, space.shape, efficiency=measured)

    def tokens(self, part: str) -> int:
        return self.data.windows(part) * self.data.window

    def forward(self, tokens: int, blocks: Iterable[Block]) -> float:
        """Returns the seconds in which blocks read windows of text."""
        pairs = tokens * (self.data.window + 1) // 2
        flops = (counting.block_flops(self.shape, b, tokens=tokens, pairs=pairs) for b in blocks)
        return sum(flops) / self.rates.model

    def head(self, tokens: int) -> float:
        """Returns the seconds of logits and their softmax, which moves them some six times."""
        flops = counting.head_flops(self.shape) * tokens / self.rates.model
        return flops + 6 * 4.0 * self.shape.vocab * tokens / self.rates.bandwidth

    def whole(self, tokens: int) -> float:
        return self.forward(tokens, self.own.blocks) + self.head(tokens)

    def costs(self) -> Step:
        parts = _sublayers(block for row in self.blocks for block in row)
        depth, scenario = self.shape.layers, self.scenario
        longer = 1 + scenario.sequence_tokens / scenario.prompt_tokens / 2
        seconds, parameters = 0.0, 0.0
        for block in (_EMPTY, *parts):
            cost = self.roofline.block_cost(0, block, scenario)
            step = cost["decode_seconds"] / scenario.generated_tokens
            once = cost["prefill_seconds"] * (1 + longer) + DECODE_STEPS * step
            seconds += COST_ROUNDS * depth * once
            parameters += depth * cost["parameters"] + counting.fixed_parameters(self.shape)
        memory = self.used + parameters * scenario.weight_bytes
        work = f"{len(parts)} sublayers, {COST_ROUNDS} rounds, stacks of {depth}"
        return Step(name="costs", work=work, seconds=seconds, memory=memory, disk=0.0)

    def library(self) -> Step:
        tokens, shape = self.tokens("fit"), self.shape
        seconds, stored, variants = 0.0, 0.0, 0
        for row in self.blocks:
            layer = self.forward(tokens, [shape.parent_block])
            seconds += layer
            for fit in _fits(shape, row, self.config):
                seconds += fit.passes * layer + self._fit(tokens, fit)
                stored += fit.stored * self.scenario.weight_bytes + 4.0 * fit.channels
                variants += len(fit.solved) if fit.stored else 0
        widest = max(shape.ffn_width, shape.heads * shape.head_dim)
        held_out = self.config.held_out * tokens * widest * self.scenario.weight_bytes
        memory = self.used + self.weights / shape.layers + 12.0 * widest**2 + held_out
        work = f"{variants} variants of {shape.layers} layers, {tokens:,} tokens"
        return Step(name="library", work=work, seconds=seconds, memory=memory, disk=stored)

    def _fit(self, tokens: int, fit: _Fit) -> float:
        """Returns the seconds of the sums and of a solution for each map and ridge."""
        outputs = self.shape.hidden
        flops = tokens * fit.features * (1.25 * fit.features + 2.0 * outputs)
        for features in fit.solved:
            solved = features**2 * (features / 3.0 + 2.0 * outputs)
            judged = 2.0 * self.config.held_out * tokens * features * outputs
            flops += len(self.config.ridges) * (solved + judged)
        return flops / self.rates.fits

    def scores(self, how: str) -> Step:
        tokens, some = self.tokens("score"), HybridConfig().anchors
        some += math.ceil(EXACT_SHARE * self.replaced)
        exact = {"fisher": 0, "hybrid": min(self.replaced, some), "exact": self.replaced}[how]
        # A replaced block pays for the layers above it: half of them on average.
        each = self.forward(tokens, self.own.blocks) / 2 + self.head(tokens)
        seconds = exact * each + (self._fisher() if how != "exact" else 0.0)
        work = f"{self.replaced} blocks, {exact} of them exactly, {tokens:,} tokens"
        memory = self.used + self.weights + self._logits(tokens)
        return Step(name="scores", work=work, seconds=seconds, memory=memory, disk=0.0)

    def _fisher(self) -> float:
        """Returns the seconds of Fisher scores: a pass back costs two forward."""
        tokens, config = self.tokens("score"), FisherConfig()
        once = self.forward(tokens, (block for row in self.blocks for block in row))
        return config.rounds * (once + (1 + 3 * config.probes) * self.whole(tokens))

    def choice(self, effort: str) -> Step:
        how = EFFORTS[effort]
        tokens = self.tokens("score") + round(self.config.held_out * self.tokens("fit"))
        sweep = 2 * self.forward(tokens, (block for row in self.blocks for block in row))
        runs = (how.pool if how.pool > 1 else 0) + 2 * how.rounds + how.moves
        seconds = runs * self.whole(tokens) + how.rounds * (sweep + 8 * self.whole(tokens))
        seconds += self._fisher() if how.pool > 1 else 0.0
        memory = self.used + 2 * self.weights + self._logits(tokens)
        work = f"effort {effort!r}: at most {runs} layouts measured, {how.rounds} rounds; healing"
        return Step(
            name="choice",
            work=work,
            seconds=seconds + self._healing(),
            memory=memory,
            disk=self.weights,
        )

    def _healing(self) -> float:
        """Returns the seconds in which both maps of every layer are fitted once more."""
        tokens, shape = self.tokens("fit"), self.shape
        context = shape.heads * shape.head_dim
        maps = (_Fit(width, 1.0, (width,), 0) for width in (context, shape.ffn_width))
        fits = shape.layers * sum(self._fit(tokens, each) for each in maps)
        return fits + 3 * self.forward(tokens, self.own.blocks)

    def measurement(self) -> Step:
        tokens = self.tokens("validation")
        cost = layout_cost(self.roofline, self.own, self.scenario)
        seconds = 2 * SPEED_ROUNDS * cost["seconds"] + 2 * self.whole(tokens)
        memory = self.used + 2 * self.weights + cost["kv_cache"] + self._logits(self.data.window)
        work = f"parent and child in turn, {SPEED_ROUNDS} rounds; {tokens:,} tokens read by each"
        return Step(
            name="measurement", work=work, seconds=seconds, memory=memory, disk=self.weights
        )

    def _logits(self, tokens: int) -> float:
        """Returns the bytes of distributions kept, at most half a gibibyte."""
        return min(2.0**29, 8.0 * self.shape.vocab * tokens)


def _sublayers(blocks: Iterable[Block]) -> list[Block]:
    halves = (
        half
        for block in blocks
        for half in (Block(block.attention, _EMPTY.ffn), Block(_EMPTY.attention, block.ffn))
    )
    return list(dict.fromkeys(half for half in halves if half != _EMPTY))


@dataclass(frozen=True, slots=True)
class _Fit:
    """Sums over the fit text for one set of features, and the variants solved from them.

    Args:
        features: Inputs of the widest map.
        passes: Passes over the layer that the sums take.
        solved: Inputs of each map solved.
        stored: Weights stored.
        channels: Channel numbers stored, four bytes each.
    """

    features: int
    passes: float
    solved: tuple[int, ...]
    stored: int
    channels: int = 0


def _fits(shape: ModelShape, blocks: tuple[Block, ...], config: LibraryConfig) -> Iterator[_Fit]:
    """Yields what is fitted in one layer."""
    own, hidden, context = shape.parent_block, shape.hidden, shape.heads * shape.head_dim
    for attention in dict.fromkeys(block.attention for block in blocks):
        if attention.kind == "linear":
            yield _Fit(hidden, 0.5, (hidden,), hidden**2)
        elif attention.kind == "gqa" and attention != own.attention:
            kv = 2 * (attention.kv_heads or 0) * shape.head_dim
            yield _Fit(context, 1.0, (context,), (context + kv) * hidden)
            # A second promising way of merging the heads, which is not stored.
            yield _Fit(context, 1.0, (context,), 0)
    groups: dict[Attention, dict[FFN, None]] = {}
    for block in blocks:
        coupled = config.coupled(block.attention)
        groups.setdefault(block.attention if coupled else own.attention, {})[block.ffn] = None
    for attention, ffns in groups.items():
        made = [ffn for ffn in ffns if Block(attention, ffn) != own]
        widths = tuple(ffn.width or 0 for ffn in made if ffn.kind == "gated")
        yield _Fit(shape.ffn_width, 1.0, widths, sum(widths) * hidden, sum(widths))
        if any(ffn.kind == "linear" for ffn in made):
            yield _Fit(hidden, 0.5, (hidden,), hidden**2)
