"""LibraryConfig: how the variants of a library are started, fitted and distilled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from puzzle.errors import SettingError
from puzzle.storage.json_files import interpreting
from puzzle.storage.json_values import as_number, field_values
from puzzle.storage.plain_values import count_of, make_plain
from search_space import Attention

COUPLINGS = ("none", "removed", "all")
STARTS = ("fitted", "puzzle")
CHANNELS = ("eliminated", "largest")
RIDGES = (0.01, 0.05, 0.2, 0.8, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BLDConfig:
    """Blockwise local distillation: gradient steps on each variant's own output.

    Args:
        tokens: Tokens seen by each variant; the fit text is read again as often as needed.
        learning_rate: Peak of the schedule, for AdamW.
        warm_up: Share of the steps until the peak; a cosine falls to zero from there.
        weight_decay: Weight decay of AdamW.
        clip: Largest gradient norm of a variant.
        batch: Windows per step.
        evaluations: How many times the held-out error is measured.
        patience: Evaluations without a better held-out error after which a variant stops.
        seed: Seed of the order of the windows.

    Raises:
        SettingError: A value is not allowed.
    """

    tokens: int = 65536
    learning_rate: float = 1e-3
    warm_up: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    batch: int = 4
    evaluations: int = 8
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        make_plain(self)
        for name in ("tokens", "batch", "evaluations", "patience"):
            count_of(name, getattr(self, name))
        count_of("seed", self.seed, least=0)
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise SettingError(f"{name}={value!r}; allowed: numbers above 0")
        if not 0.0 <= self.warm_up < 1.0:
            raise SettingError(f"warm_up={self.warm_up!r}; allowed: 0 or more, below 1")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise SettingError(f"weight_decay={self.weight_decay!r}; allowed: 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryConfig:
    """How the variants of a library are made.

    Args:
        coupling: Which attentions get FFNs of their own, fitted to make up for what the attention
            misses: "removed" for linear and no attention, "all", or "none" (all decoupled).
        start: "fitted" in closed form; or "puzzle", the Puzzle paper's initialisation (mean-pooled
            heads, W_O W_V, W_down W_up, sliced channels) without a fit, for comparison.
        channels: Which channels a narrower FFN keeps: "eliminated", those left when the others
            are given up one by one, always the one whose loss the rest makes up for best; or
            "largest", those with the largest mean activation times the norm of their weights,
            which the start "puzzle" always takes.
        ridges: Ridges tried, as shares of the mean feature power.
        held_out: Share of the fit windows that choose ridges and stop the distillation.
        bld: Gradient steps on top; None for none.

    Raises:
        SettingError: A value is not allowed.

    Example:
        >>> LibraryConfig(coupling="all").coupled(Attention("gqa", 1))
        True
    """

    coupling: str = "removed"
    start: str = "fitted"
    channels: str = "eliminated"
    ridges: tuple[float, ...] = RIDGES
    held_out: float = 0.125
    bld: BLDConfig | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        named = {"coupling": COUPLINGS, "start": STARTS, "channels": CHANNELS}
        for name, allowed in named.items():
            if getattr(self, name) not in allowed:
                raise SettingError(f"{name}={getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if not self.ridges or not all(math.isfinite(r) and r > 0 for r in self.ridges):
            raise SettingError(f"ridges={self.ridges!r}; allowed: one or more numbers above 0")
        if not 0.0 < self.held_out < 1.0:
            raise SettingError(f"held_out={self.held_out!r}; allowed: between 0 and 1")

    def coupled(self, attention: Attention) -> bool:
        """Returns whether an attention variant gets FFNs of its own."""
        if self.coupling == "removed":
            return attention.kind != "gqa"
        return self.coupling == "all"

    @property
    def eliminates(self) -> bool:
        """Whether the channels of narrower FFNs are chosen by elimination."""
        return self.channels == "eliminated" and self.start == "fitted"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {**asdict(self), "ridges": list(self.ridges)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LibraryConfig:
        """Returns the config that `to_dict` wrote.

        Raises:
            SettingError: A value is missing, unknown, or of another kind.
        """
        with interpreting("the values", "the settings of a library"):
            given = field_values(cls, values, skip=("ridges", "bld"))
            ridges = tuple(as_number(each, "ridges") for each in values["ridges"])
            bld = values["bld"]
            steps = BLDConfig(**field_values(BLDConfig, bld)) if bld else None
            return cls(**{**given, "ridges": ridges, "bld": steps})

    def fit_spec(self) -> dict[str, Any]:
        """Returns what the variants depend on before distillation, as JSON values."""
        return {name: value for name, value in self.to_dict().items() if name != "bld"}
