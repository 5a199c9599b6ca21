"""Timing on a CPU or a GPU: turns, cold caches, quartiles, and runs that drift done again."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

WARM_UP = 1
DRIFT = 0.1
RETRIES = 2
FLUSH_BYTES = 2**28  # more than the L2 cache of any GPU

Seconds = dict[str, float]
Samples = dict[str, dict[str, list[float]]]


class Stopwatch:
    """Seconds of a call on a device.

    On a GPU the time is between two CUDA events, and the L2 cache is overwritten before each, so
    that weights are read from where a whole model reads them.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        clock: "wall", or on a CPU "cpu": processor seconds of this process.
    """

    def __init__(self, device: str, clock: str = "wall") -> None:
        self.clock = time.process_time if clock == "cpu" else time.perf_counter
        self.cuda = torch.device(device).type == "cuda"
        self._junk = (
            torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device) if self.cuda else None
        )

    def seconds(self, run: Callable[[], Any], repeats: int = 1) -> float:
        """Returns the mean seconds of one call."""
        if self._junk is None:
            start = self.clock()
            for _ in range(repeats):
                run()
            return (self.clock() - start) / repeats
        pairs = []
        for _ in range(repeats):
            self._junk.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            pairs.append((begin, end))
        torch.cuda.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in pairs) / 1000 / repeats


def take_turns(jobs: Mapping[str, Callable[[], Seconds]], rounds: int) -> tuple[Samples, float]:
    """Runs all jobs in turn, round after round, and again if the device changed its speed.

    A slow spell falls on all jobs alike; but if the second half of the rounds was slower or
    faster than the first by more than `DRIFT`, clocks or other work were changing, and all
    rounds are run again, at most `RETRIES` times.

    Args:
        jobs: By name; each returns seconds by phase.
        rounds: How often each runs, after a warm-up.

    Returns:
        The samples by job and phase, and the drift that is left in them.
    """
    for attempt in range(RETRIES + 1):
        samples = _rounds(jobs, rounds)
        left = drift(samples)
        if abs(left) <= DRIFT:
            break
        again = "measured again" if attempt < RETRIES else "kept, but not to be trusted"
        logger.warning(
            "the device's speed changed by %.0f %% while it was timed: %s", 100 * left, again
        )
    return samples, left


def _rounds(jobs: Mapping[str, Callable[[], Seconds]], rounds: int) -> Samples:
    samples: Samples = {name: {} for name in jobs}
    for turn in tqdm(range(WARM_UP + rounds), desc="costs", unit="round"):
        for name, job in jobs.items():
            for phase, seconds in job().items():
                if turn >= WARM_UP:
                    samples[name].setdefault(phase, []).append(seconds)
    return samples


def drift(samples: Samples) -> float:
    """Returns how much slower the second half of all samples was than the first, as a share."""
    ratios = []
    for phases in samples.values():
        for values in phases.values():
            half = len(values) // 2
            if half:
                late, early = statistics.median(values[-half:]), statistics.median(values[:half])
                ratios.append(late / early)
    return statistics.median(ratios) - 1 if ratios else 0.0


def spread(samples: Sequence[float]) -> float:
    """Returns the interquartile range as a share of the median; 0 for a single sample."""
    if len(samples) < 2:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4)
    return (high - low) / statistics.median(samples)


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that a device, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
