"""llama.cpp through xllamacpp, whose wheels include a compiled llama.cpp."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from puzzle.costs.calibrated.engines.engine import Timing, check_clock
from puzzle.costs.calibrated.engines.process import last_json, run_command
from puzzle.costs.calibrated.engines.random_gguf import FILE, bytes_per_weight, write_random_gguf
from puzzle.errors import EngineError
from puzzle.hardware.threads import given_cores
from puzzle.limits.scenario import Scenario
from puzzle.models.child_config import PuzzleConfig
from puzzle.storage.plain_values import make_plain

WORKER = Path(__file__).with_name("llama_cpp_worker.py")
TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
# llama.cpp's kernels for a bfloat16 cache are slow, and float16 takes as many bytes.
CACHE_TYPES = {"float32": "f32", "bfloat16": "f16", "float16": "f16"}
VERSION = "import importlib.metadata as m; import xllamacpp; print(m.version('xllamacpp'))"


@dataclass(frozen=True, kw_only=True)
class LlamaCpp:
    """llama.cpp's server, run in a process of its own for each group of models.

    Args:
        weights: Type of the matrices, such as "q8_0"; by default the scenario's weight_dtype.
        threads: Threads of llama.cpp; by default one per physical core that this process may
            use.
        gpu_layers: Layers that are put on a GPU, with a build of xllamacpp that supports one.
        flash_attention: Whether llama.cpp's flash attention is used.
        rounds: How often each model runs the scenario, after one warm-up.
        timeout: Seconds for one group of models.
        clock: "wall", or "cpu": processor seconds, which other work on the machine hardly
            disturbs, and which equal wall time where there is one thread and nothing else runs.
        python: The interpreter that has xllamacpp; by default this one.

    Example:
        >>> LlamaCpp(weights="q8_0", threads=1).name
        'llama.cpp'
    """

    weights: str | None = None
    threads: int | None = None
    gpu_layers: int = 0
    flash_attention: bool = True
    rounds: int = 5
    timeout: float = 600.0
    clock: str = "wall"
    python: str = sys.executable

    name = "llama.cpp"
    takes_turns = True

    def __post_init__(self) -> None:
        make_plain(self)
        check_clock(self.clock)

    @cached_property
    def version(self) -> str:
        """Version of xllamacpp; EngineError if it is not installed."""
        command = [self.python, "-c", VERSION]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"{self.python!r} cannot be run: {error}") from error
        if done.returncode:
            raise EngineError(
                f"llama.cpp is not installed for {self.python}; run: "
                f"{self.python} -m pip install xllamacpp"
            )
        return done.stdout.strip().splitlines()[-1]

    def check(self) -> None:
        """Raises EngineError, saying what to install, if xllamacpp is missing."""
        _ = self.version

    @property
    def _threads(self) -> int:
        return self.threads or min(psutil.cpu_count(logical=False) or 1, given_cores())

    def record(self) -> dict[str, Any]:
        """Returns version and settings."""
        return {
            "engine": self.name,
            "xllamacpp": self.version,
            "weights": self.weights,
            "threads": self._threads,
            "gpu_layers": self.gpu_layers,
            "flash_attention": self.flash_attention,
            "rounds": self.rounds,
            "clock": self.clock,
        }

    def weight_bytes(self, scenario: Scenario) -> float:
        """Returns the bytes of one weight, with its share of a block's scales."""
        return bytes_per_weight(self.weights or TYPES[scenario.served_dtype])

    def write(self, config: PuzzleConfig, scenario: Scenario, directory: Path) -> None:
        """Writes a GGUF of random weights."""
        write_random_gguf(config, directory, self.weights or TYPES[scenario.served_dtype])
        size = {"vocabulary": config.vocab_size}
        (directory / "size.json").write_text(json.dumps(size), encoding="utf-8")

    def run(self, models: Sequence[Path], scenario: Scenario, *, log: Path) -> list[Timing]:
        """Times models, all loaded at once and taking turns."""
        size = json.loads((models[0] / "size.json").read_text(encoding="utf-8"))
        spec = {
            "models": [str(model / FILE) for model in models],
            "batch": scenario.batch,
            "prompt_tokens": scenario.prompt_tokens,
            "generated_tokens": scenario.generated_tokens,
            "cache": CACHE_TYPES[scenario.cache_dtype or scenario.served_dtype],
            "threads": self._threads,
            "gpu_layers": self.gpu_layers,
            "flash_attention": self.flash_attention,
            "rounds": self.rounds,
            "clock": self.clock,
            **size,
        }
        command = [self.python, str(WORKER), json.dumps(spec)]
        times = last_json(run_command(command, timeout=self.timeout, log=log), self.name)
        return [Timing.of(*pair) for pair in zip(times["first"], times["whole"], strict=True)]
