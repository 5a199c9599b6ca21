"""torch, as it is commonly used: `model.generate()` of transformers."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

from puzzle.costs.calibrated.engines.engine import Timing, check_clock
from puzzle.costs.measured.replies import generate_seconds
from puzzle.errors import EngineError
from puzzle.hardware.identity import device_record
from puzzle.limits.scenario import Scenario
from puzzle.models.assembling import random_model
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.child_config import PuzzleConfig
from puzzle.storage.plain_values import make_plain

CONFIG = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchGenerate:
    """Greedy `generate()` of transformers, in this process.

    Args:
        device: A torch device, such as "cpu" or "cuda:0".
        rounds: How often each model runs the scenario, after one warm-up.
        clock: "wall", or "cpu": processor seconds (see `LlamaCpp`), for a CPU only.

    Example:
        >>> TorchGenerate(device="cpu").name
        'torch'
    """

    device: str = "cpu"
    rounds: int = 5
    clock: str = "wall"

    @property
    def name(self) -> str:
        """The engine's name, "torch"."""
        return "torch"

    @property
    def takes_turns(self) -> bool:
        """Whether several models can be held and timed in turns: always True."""
        return True

    def __post_init__(self) -> None:
        make_plain(self)
        check_clock(self.clock, self.device)

    def check(self) -> None:
        """Raises EngineError if torch cannot use the device."""
        try:
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(
                f"torch {torch.__version__} cannot use {self.device!r}: {error}; install a build "
                "of torch for it or choose device='cpu'"
            ) from error

    def record(self) -> dict[str, Any]:
        """Returns versions and settings."""
        return {
            "engine": self.name,
            "transformers": transformers.__version__,
            "device": self.device,
            "rounds": self.rounds,
            "clock": self.clock,
            **device_record(self.device),
        }

    def write(self, config: PuzzleConfig, scenario: Scenario, directory: Path) -> None:
        """Writes the config; the weights are drawn when the model is loaded."""
        values = {**config.to_dict(), "dtype": scenario.served_dtype}
        (directory / CONFIG).write_text(json.dumps(values), encoding="utf-8")

    def run(self, models: Sequence[Path], scenario: Scenario, *, log: Path) -> list[Timing]:
        """Times models, all loaded at once and taking turns."""
        try:
            return self._run([_load(model, self.device) for model in models], scenario)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise EngineError(
                f"{self.device} has no memory left for {scenario}: {error}; use a smaller batch"
            ) from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            raise EngineError(f"the machine has no memory left: {error}") from error
        finally:
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def _run(self, models: list[Any], scenario: Scenario) -> list[Timing]:
        first: list[list[float]] = [[] for _ in models]
        whole: list[list[float]] = [[] for _ in models]
        for turn in range(self.rounds + 1):
            for at, model in enumerate(models):
                for tokens, column in ((1, first), (1 + scenario.generated_tokens, whole)):
                    seconds = self._seconds(model, scenario, tokens)
                    if turn:  # the first is a warm-up
                        column[at].append(seconds)
        return [Timing.of(*times) for times in zip(first, whole, strict=True)]

    def _seconds(self, model: Any, scenario: Scenario, tokens: int) -> float:
        size = (scenario.batch, scenario.prompt_tokens)
        generator = torch.Generator().manual_seed(0)
        prompt = torch.randint(1, model.config.vocab_size, size, generator=generator)
        prompt = prompt.to(self.device)
        return generate_seconds(model, prompt, tokens, self.clock)[0]


def _load(directory: Path, device: str) -> PuzzleForCausalLM:
    values = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    dtype = values.pop("dtype")
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    return random_model(config, dtype, device)
