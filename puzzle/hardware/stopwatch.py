"""Timing on a CPU or a GPU: in turns, with cold caches, until the error is small enough."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from puzzle.progress.bars import Count

logger = logging.getLogger(__name__)

WARM_UP = 1
# Errors of single series average out in the sum over layers.
LEAST_ROUNDS, MOST_ROUNDS, GOAL = 3, 8, 0.02
# Relative change of the device's speed above which a warning is logged.
DRIFT = 0.1
SERIES = 3
FLUSH_BYTES = 2**28  # more than the L2 cache of any GPU

Seconds = dict[str, float]
Samples = dict[str, dict[str, list[float]]]


class Stopwatch:
    """Seconds of a call on a device.

    On a GPU the time is between two CUDA events, and the L2 cache is overwritten before each, so
    that weights are read from where a whole model reads them.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        clock: "wall", or on a CPU "cpu": CPU seconds of this process.
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


def take_turns(
    jobs: Mapping[str, Callable[[], Seconds]],
    *,
    least: int = LEAST_ROUNDS,
    most: int = MOST_ROUNDS,
    goal: float = GOAL,
) -> tuple[Samples, float]:
    """Runs all jobs in turn, round after round, until their medians are precise enough.

    A slow spell affects all jobs of a round alike, so each round is divided by its slowness.

    Args:
        jobs: By name; each returns seconds by phase.
        least: Fewest rounds, after a warm-up.
        most: Most rounds.
        goal: Relative error of the medians at which the rounds end.

    Returns:
        The samples by job and phase, as if every round had been as fast as the median one, and
        the drift that was removed.
    """
    raw: Samples = {name: {} for name in jobs}
    steadied: Samples = {}
    with Count("costs", "timing", (WARM_UP + most) * len(jobs)) as bar:
        for turn in range(WARM_UP + most):
            for name, job in jobs.items():
                for phase, seconds in job().items():
                    if turn >= WARM_UP:
                        raw[name].setdefault(phase, []).append(seconds)
                bar.update(note="warm-up" if turn < WARM_UP else f"round {turn - WARM_UP + 1}")
            if turn + 1 - WARM_UP < least:
                continue
            steadied = steady(raw)
            if uncertainty(steadied) <= goal:
                break
    change = drift(raw)
    if abs(change) > DRIFT:
        logger.warning(
            "the device's speed changed by %.0f %% while it was timed; jobs are compared within "
            "each round, so ratios are more reliable than seconds",
            100 * change,
        )
    return steadied, change


def steady(samples: Samples) -> Samples:
    """Returns samples divided by how slow their round was: the median over all series.

    With fewer than `SERIES` series a slow round looks like a slow job, and the samples are returned
    unchanged.
    """
    series = [values for phases in samples.values() for values in phases.values()]
    if len(series) < SERIES:
        return samples
    shares = [[value / statistics.median(values) for value in values] for values in series]
    slowness = [statistics.median(row) for row in zip(*shares, strict=True)]
    return {
        name: {
            phase: [value / factor for value, factor in zip(values, slowness, strict=True)]
            for phase, values in phases.items()
        }
        for name, phases in samples.items()
    }


def uncertainty(samples: Samples) -> float:
    """Returns the relative standard error of a series' median, as the median over all series."""
    errors = [
        standard_error(values) / statistics.median(values)
        for phases in samples.values()
        for values in phases.values()
    ]
    return statistics.median(errors)


def standard_error(values: Sequence[float]) -> float:
    """Returns the standard error of the median of normal samples; infinite for a single one."""
    if len(values) < 2:
        return math.inf
    return math.sqrt(math.pi / 2) * statistics.stdev(values) / math.sqrt(len(values))


def drift(samples: Samples) -> float:
    """Returns by what fraction the second half of all samples was slower than the first."""
    ratios = []
    for phases in samples.values():
        for values in phases.values():
            half = len(values) // 2
            if half:
                late, early = statistics.median(values[-half:]), statistics.median(values[:half])
                ratios.append(late / early)
    return statistics.median(ratios) - 1 if ratios else 0.0


def spread(samples: Sequence[float]) -> float:
    """Returns the interquartile range relative to the median; 0 for a single sample."""
    if len(samples) < 2:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4)
    return (high - low) / statistics.median(samples)


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that a device, or the machine, is out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
