"""vLLM through its own latency benchmark, which times one batch of equal requests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import puzzle.serving.runners
from puzzle.costs.calibrated.engines.engine import Timing, hashed_values
from puzzle.costs.calibrated.engines.process import run_command
from puzzle.costs.calibrated.engines.random_weights import random_source
from puzzle.errors import EngineError
from puzzle.limits.scenario import Scenario
from puzzle.models.child_config import PuzzleConfig
from puzzle.serving.writers.nemotron_nas import write_nemotron_nas
from puzzle.storage.plain_values import make_plain

# Not beside this file: a script imports its neighbours first, and this one is called vllm.
WORKER = Path(puzzle.serving.runners.__file__).with_name("time_vllm.py")


@dataclass(frozen=True, kw_only=True)
class Vllm:
    """vLLM, one process for each number of generated tokens of each model.

    Args:
        arguments: Further engine arguments, such as ("--tensor-parallel-size", "2").
        iterations: Timed iterations.
        warm_up: Iterations before them.
        timeout: Seconds for one process, loading and compiling included.
        python: The interpreter that has vllm; by default this one.
        environment: Variables set for it; of their values, records hold only hashes.

    Example:
        >>> Vllm(arguments=("--enforce-eager",)).name
        'vllm'
    """

    arguments: Sequence[str] = ()
    iterations: int = 10
    warm_up: int = 3
    timeout: float = 1800.0
    python: str = sys.executable
    environment: Mapping[str, str] | None = field(default=None, repr=False)

    name = "vllm"

    def __post_init__(self) -> None:
        make_plain(self)

    @cached_property
    def version(self) -> str:
        """Version of vLLM; EngineError if it is not installed."""
        code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
        version = (
            "import importlib.metadata as m; print([f'{d.name} {d.version}' for d in "
            "m.distributions() if (d.name or '').startswith('vllm')])"
        )
        for command in (code, version):
            try:
                done = subprocess.run(
                    [self.python, "-c", command],
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=60,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise EngineError(f"{self.python!r} cannot be run: {error}") from error
            if done.returncode:
                raise EngineError(
                    f"vLLM is not installed for {self.python}; install it into an environment of "
                    "its own (pip install vllm) and give that one's interpreter as python="
                )
        return done.stdout.strip()

    def check(self) -> None:
        """Raises EngineError, saying what to install, if vLLM is missing."""
        _ = self.version

    def record(self) -> dict[str, Any]:
        """Returns version and settings."""
        return {
            "engine": self.name,
            "version": self.version,
            "arguments": list(self.arguments),
            "iterations": self.iterations,
            "environment": hashed_values(self.environment),
        }

    def write(self, config: PuzzleConfig, scenario: Scenario, directory: Path) -> None:
        """Writes a `nemotron-nas` checkpoint of random weights."""
        source = random_source(config, getattr(torch, scenario.served_dtype))
        write_nemotron_nas(source, directory, engine="vllm", dtype=None)

    def run(self, models: Sequence[Path], scenario: Scenario, *, log: Path) -> list[Timing]:
        """Times models one after the other."""
        return [
            Timing.of(
                self._latencies(model, scenario, 1, log),
                self._latencies(model, scenario, 1 + scenario.generated_tokens, log),
            )
            for model in models
        ]

    def _latencies(self, model: Path, scenario: Scenario, tokens: int, log: Path) -> list[float]:
        answer = model / f"latency-{tokens}.json"
        command = [self.python, str(WORKER), "--model", str(model)]
        command += ["--trust-remote-code", "--skip-tokenizer-init"]
        command += ["--disable-detokenize", "--max-model-len", str(scenario.sequence_tokens + 1)]
        command += ["--dtype", scenario.served_dtype, "--batch-size", str(scenario.batch)]
        command += ["--input-len", str(scenario.prompt_tokens), "--output-len", str(tokens)]
        command += ["--num-iters", str(self.iterations), "--num-iters-warmup", str(self.warm_up)]
        command += ["--output-json", str(answer), *self.arguments]
        run_command(command, timeout=self.timeout, log=log, environment=self.environment)
        return read_latencies(answer, log)


def read_latencies(answer: Path, log: Path) -> list[float]:
    """Returns the latencies that `vllm bench latency --output-json` wrote.

    Raises:
        EngineError: The file is missing or holds something else.
    """
    try:
        values = json.loads(answer.read_text(encoding="utf-8"))["latencies"]
        latencies = [float(seconds) for seconds in values]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"vLLM wrote no list of latencies to {answer.name} ({error!r}); its log is {log}"
        ) from error
    if not all(0 < seconds < float("inf") for seconds in latencies) or not latencies:
        raise EngineError(f"vLLM wrote latencies {latencies}; only times above zero are allowed")
    return latencies
