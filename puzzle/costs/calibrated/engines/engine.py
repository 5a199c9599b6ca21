"""The interface of serving engines for the calibration of costs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from puzzle.errors import EngineError
from puzzle.limits.scenario import Scenario
from puzzle.models.child_config import PuzzleConfig
from puzzle.storage.hashing import content_hash

CLOCKS = ("wall", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds an engine took for a scenario, one value per round.

    Args:
        prefill: From the whole batch of prompts to the first token of each reply; empty where
            the engine reports only the total.
        decode: The `generated_tokens` further steps; empty where `prefill` is.
        seconds: Both together.

    Raises:
        EngineError: A time is not positive, or there is none.
    """

    prefill: tuple[float, ...] = ()
    decode: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.seconds and self.prefill:
            total = tuple(p + d for p, d in zip(self.prefill, self.decode, strict=True))
            object.__setattr__(self, "seconds", total)
        for name in ("prefill", "decode", "seconds"):
            for value in getattr(self, name):
                if not 0 < value < float("inf"):
                    raise EngineError(
                        f"an engine measured {name} = {value!r} s; only finite times above zero "
                        "are measurements: use more tokens or rounds, or fix the engine's timer"
                    )
        if not self.seconds:
            raise EngineError("an engine returned no times; it must return one or more rounds")

    @classmethod
    def of(cls, first: Sequence[float], whole: Sequence[float]) -> Timing:
        """Returns the times of an engine that generated one token, and all, in turns.

        Args:
            first: Seconds until the prompts were read and one token of each reply was generated.
            whole: Seconds with `generated_tokens` further tokens.
        """
        prefill = statistics.median(first)
        return cls(prefill=tuple(first), decode=tuple(seconds - prefill for seconds in whole))

    def median(self, phase: str) -> float:
        """Returns the median over rounds of "prefill", "decode" or "seconds"."""
        return statistics.median(getattr(self, phase))

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that were timed separately: prefill and decode, or only the total."""
        return ("prefill", "decode") if self.prefill else ("seconds",)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {name: list(getattr(self, name)) for name in ("prefill", "decode", "seconds")}


class Engine(Protocol):
    """A serving engine as a black box: models in, seconds out.

    An engine that can hold several models at once has an attribute `takes_turns` that is True: it
    is then given the parent and a layout together. One whose weights take a different number of
    bytes than the scenario's has a method `weight_bytes(scenario)`, and one that does not run on
    the CPU an attribute `device`, such as "cuda:0".
    """

    @property
    def name(self) -> str:
        """The name used in messages and file names."""
        ...

    def check(self) -> None:
        """Raises EngineError, saying what to install, if the engine cannot run here."""
        ...

    def record(self) -> dict[str, Any]:
        """Returns what a measurement depends on, versions and settings, as JSON values."""
        ...

    def write(self, config: PuzzleConfig, scenario: Scenario, directory: Path) -> None:
        """Writes a model of the config, with random weights, in the form the engine reads."""
        ...

    def run(self, models: Sequence[Path], scenario: Scenario, *, log: Path) -> list[Timing]:
        """Times models that `write` made; an engine that can hold several lets them take turns.

        Raises:
            EngineError: It crashed, hung or returned something other than times.
        """
        ...


def check_clock(clock: str, device: str = "cpu") -> None:
    """Raises EngineError for a clock that does not exist or cannot time the device."""
    if clock not in CLOCKS:
        raise EngineError(f"clock={clock!r}; allowed: 'wall', 'cpu' (processor seconds)")
    if clock == "cpu" and device != "cpu":
        raise EngineError(f"clock='cpu' cannot time {device}; use 'wall'")


def hashed_values(environment: Mapping[str, str] | None) -> dict[str, str]:
    """Returns variables by name with hashes in place of their values, which may be secrets.

    Args:
        environment: Variables set for an engine.
    """
    return {name: content_hash([name, value]) for name, value in (environment or {}).items()}
