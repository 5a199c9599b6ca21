"""Parent and child beside each other: typed figures, predicted or measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from puzzle.limits.scenario import Scenario, rate
from puzzle.storage.json_values import as_number, as_object

SPEEDS = ("throughput", "prefill_throughput", "decode_throughput")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is known of one model in a scenario; None if it is not known.

    Args:
        scenario: The scenario of the seconds.
        prefill_seconds: Seconds to read all prompts.
        decode_seconds: Seconds to generate all replies.
        seconds: Seconds of both.
        memory: Bytes of weights and KV cache.
        kv_cache: Bytes of the KV cache.
        parameters: Number of parameters.
        peak_memory: Most bytes at any time.
        flops: Floating-point operations.
        energy: Joules.
        kl: KL(parent || model) in nats per token; predicted, the sum of the blocks' scores.
        kl_error: Standard error of `kl`.
        perplexity: Perplexity on validation text.
        agreement: Share of positions where the most likely token is the parent's.
        agreement_error: Standard error of `agreement`.
        others: A cost model's own resources, by name.
    """

    scenario: Scenario
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    seconds: float | None = None
    memory: float | None = None
    kv_cache: float | None = None
    parameters: float | None = None
    peak_memory: float | None = None
    flops: float | None = None
    energy: float | None = None
    kl: float | None = None
    kl_error: float | None = None
    perplexity: float | None = None
    agreement: float | None = None
    agreement_error: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)

    @property
    def throughput(self) -> float | None:
        """Generated tokens per second of the whole scenario."""
        return self.rates().get("throughput")

    @property
    def prefill_throughput(self) -> float | None:
        """Prompt tokens per second of prefill."""
        return self.rates().get("prefill_throughput")

    @property
    def decode_throughput(self) -> float | None:
        """Generated tokens per second of decode."""
        return self.rates().get("decode_throughput")

    def rates(self) -> dict[str, float]:
        """Returns throughputs in tokens/s and latencies in seconds that the seconds give."""
        seconds = ("prefill_seconds", "decode_seconds", "seconds")
        totals = {name: value for name, value in self._items(seconds) if 0 < value < math.inf}
        if {"prefill_seconds", "decode_seconds"} <= set(totals):
            return rate(totals, self.scenario)
        if "seconds" not in totals:
            return {}
        generated = self.scenario.batch * self.scenario.generated_tokens
        return {"throughput": generated / totals["seconds"], "latency": totals["seconds"]}

    def with_rates(self) -> dict[str, float]:
        """Returns all that is known, by name."""
        return {**self.to_dict(), **self.rates()}

    def to_dict(self) -> dict[str, float]:
        """Returns what is known as plain JSON values, by name; rates and scenario are not in it."""
        return {**dict(self._items(_NAMES)), **self.others}

    @classmethod
    def from_dict(cls, values: Mapping[str, float], scenario: Scenario) -> Figures:
        """Returns the figures that `to_dict` wrote; names without a field go to `others`.

        Raises:
            DataError: A value is no number.
        """
        # Figures may be infinite: of a model that broke, they are, and it has to be shown.
        given = {
            name: as_number(value, name, finite=False)
            for name, value in as_object(values, "figures").items()
        }
        own: dict[str, Any] = {name: given[name] for name in _NAMES if name in given}
        others = {name: value for name, value in given.items() if name not in _NAMES}
        return cls(scenario=scenario, others=others, **own)

    def _items(self, names: tuple[str, ...]) -> Iterator[tuple[str, float]]:
        for name in names:
            value = getattr(self, name)
            if value is not None:
                yield name, value


_NAMES = tuple(each.name for each in fields(Figures) if each.name not in ("scenario", "others"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A parent and its child, both predicted or both measured.

    Args:
        parent: The parent's figures.
        child: The child's figures.

    Example:
        >>> seconds = {"parent": {"seconds": 3.0}, "child": {"seconds": 2.0}}
        >>> both = Comparison.from_dict(seconds, Scenario())
        >>> both.ratio("throughput"), both.child.memory
        (1.5, None)
    """

    parent: Figures
    child: Figures

    def ratio(self, name: str) -> float | None:
        """Returns a figure or rate of the child over the parent's; None unless both are known."""
        parent, child = self.parent.with_rates(), self.child.with_rates()
        return child[name] / parent[name] if name in child and parent.get(name) else None

    def speedup(self) -> dict[str, float]:
        """Returns child / parent for each throughput that is known."""
        ratios = {name: self.ratio(name) for name in SPEEDS}
        return {name: ratio for name, ratio in ratios.items() if ratio is not None}

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Returns plain JSON values."""
        return {"parent": self.parent.to_dict(), "child": self.child.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, float]], scenario: Scenario) -> Comparison:
        """Returns the comparison that `to_dict` wrote.

        Args:
            values: Figures of "parent" and "child".
            scenario: The scenario of their seconds.
        """
        parent, child = (Figures.from_dict(values[who], scenario) for who in ("parent", "child"))
        return cls(parent=parent, child=child)
