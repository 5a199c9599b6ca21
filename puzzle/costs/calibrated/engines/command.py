"""Any engine that a command line can run: a model directory in, JSON out."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puzzle.costs.calibrated.engines.engine import Timing, hashed_values
from puzzle.costs.calibrated.engines.process import last_json, run_command
from puzzle.errors import EngineError
from puzzle.limits.scenario import Scenario
from puzzle.models.assembling import random_model
from puzzle.models.child_config import PuzzleConfig, layout_from_config
from puzzle.storage.plain_values import make_plain

RATES = ("throughput", "prefill_throughput", "decode_throughput")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A user's command that measures one model and prints its speed.

    The last line of its output that is a JSON object counts. It holds either
    `prefill_throughput` (prompt tokens per second) and `decode_throughput` (generated tokens per
    second while decoding), or `throughput` alone: generated tokens per second of the whole
    scenario. All are of the whole batch.

    Args:
        command: The command line; `{model}`, `{batch}`, `{prompt_tokens}` and `{generated_tokens}`
            in it are filled in. The model is a directory with `config.json`, weights as
            safetensors, and `layout.json`.
        label: The name used in messages and file names; by default the program's name.
        version: Something that changes when the engine does; times are stored under it.
        weights: Whether random weights are written; if not, the directory has only the config.
        timeout: Seconds for one model.
        environment: Variables set for the command; of their values, records hold only hashes.

    Raises:
        EngineError: The command does not mention `{model}`.

    Example:
        >>> Command(command="measure.sh {model} --batch {batch}").name
        'measure.sh'
    """

    command: str
    label: str | None = None
    version: str = ""
    weights: bool = True
    timeout: float = 600.0
    environment: Mapping[str, str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        make_plain(self)
        if "{model}" not in self.command:
            raise EngineError(
                f"command={self.command!r} does not say where the model goes; write {{model}} "
                "where its directory belongs"
            )

    @property
    def name(self) -> str:
        """The label, or the program's name."""
        return self.label or Path(shlex.split(self.command)[0]).name

    def check(self) -> None:
        """Raises EngineError if the program does not exist."""
        program = shlex.split(self.command)[0]
        if shutil.which(program) is None:
            raise EngineError(
                f"{program!r} is not a program on the PATH; install it or give its path"
            )

    def record(self) -> dict[str, Any]:
        """Returns the command and what the user calls its version."""
        return {
            "engine": "command",
            "command": self.command,
            "version": self.version,
            "environment": hashed_values(self.environment),
        }

    def write(self, config: PuzzleConfig, scenario: Scenario, directory: Path) -> None:
        """Writes a Hugging Face checkpoint with random weights, and `layout.json`."""
        if self.weights:
            random_model(config, scenario.served_dtype).save_pretrained(directory)
        else:
            config.save_pretrained(directory)
        layout_from_config(config).save(directory / "layout.json")

    def run(self, models: Sequence[Path], scenario: Scenario, *, log: Path) -> list[Timing]:
        """Runs the command once per model."""
        return [self._one(model, scenario, log) for model in models]

    def _one(self, model: Path, scenario: Scenario, log: Path) -> Timing:
        values = {
            "{model}": str(model),
            "{batch}": str(scenario.batch),
            "{prompt_tokens}": str(scenario.prompt_tokens),
            "{generated_tokens}": str(scenario.generated_tokens),
        }
        # In one pass: the directory of the model may be called "{batch}" itself.
        names = re.compile("|".join(map(re.escape, values)))
        parts = [
            names.sub(lambda match: values[match[0]], part) for part in shlex.split(self.command)
        ]
        output = run_command(parts, timeout=self.timeout, log=log, environment=self.environment)
        return timing_from_rates(last_json(output, self.name), scenario, self.name)


def timing_from_rates(output: Mapping[str, Any], scenario: Scenario, who: str) -> Timing:
    """Returns the seconds that follow from throughputs.

    Raises:
        EngineError: Neither `throughput` nor both of its parts are given, or one of them is not a
            finite number above zero.
    """
    given = {name: output[name] for name in RATES if name in output}
    for name, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < float("inf"):
            raise EngineError(
                f"{who} printed {name} = {value!r}; allowed: tokens per second, finite and above "
                "zero"
            )
    generated = scenario.batch * scenario.generated_tokens
    if {"prefill_throughput", "decode_throughput"} <= given.keys():
        prompt = scenario.batch * scenario.prompt_tokens
        return Timing(
            prefill=(prompt / given["prefill_throughput"],),
            decode=(generated / given["decode_throughput"],),
        )
    if "throughput" in given:
        return Timing(seconds=(generated / given["throughput"],))
    raise EngineError(
        f"{who} printed {json.dumps(dict(output))[:200]}; it must hold prefill_throughput and "
        "decode_throughput, or throughput, in tokens per second"
    )
