"""Timing layouts in an engine, each in turns with the parent, each stored at once."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puzzle.costs.calibrated.engines.engine import Engine, Timing
from puzzle.errors import DamagedArtifactError, EngineError
from puzzle.hardware.identity import device_record
from puzzle.limits.scenario import Scenario
from puzzle.models.child_config import config_from_layout
from puzzle.storage.json_files import interpreting
from puzzle.storage.workspace import Workspace
from search_space import Layout

logger = logging.getLogger(__name__)

ATTEMPTS = 2
# Part of every artifact's key: raised when the same inputs give a different result.
FORMAT = 2
FILE = "seconds.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The times of one layout, and of the parent in the same minute.

    Args:
        layout: The layout.
        timing: Its times.
        parent: The parent's, taken in turns with it; None if the engine holds only one model.
    """

    layout: Layout
    timing: Timing
    parent: Timing | None

    def ratio(self, phase: str) -> float:
        """Returns the layout's median seconds over the parent's of the same session."""
        if self.parent is None:
            raise EngineError("this engine runs one model at a time; there is no ratio")
        return self.timing.median(phase) / self.parent.median(phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An engine, a scenario and a parent whose layouts are timed.

    Args:
        engine: The engine.
        config: The parent's transformers config.
        scenario: Batch and lengths.
        workspace: Where every measured layout is stored; logs go to its `logs` directory.
    """

    engine: Engine
    config: Any
    scenario: Scenario
    workspace: Workspace

    def measure(self, layout: Layout) -> Measurement:
        """Times a layout, or reads what was timed before.

        Raises:
            EngineError: The engine failed twice in a row.
        """
        artifact = self.workspace.artifact("engine-runs", self._spec(layout))
        for attempt in range(1, ATTEMPTS + 1):
            try:
                artifact = self.workspace.get_or_build(
                    artifact.kind, artifact.spec, lambda to: self._build(layout, to)
                )
                break
            except EngineError as error:
                if attempt == ATTEMPTS:
                    raise
                logger.warning("%s failed and is run again: %s", self.engine.name, error)
        with interpreting(artifact.path / FILE, "timings of an engine", DamagedArtifactError):
            timings = [Timing(**_tuples(values)) for values in artifact.load_json(FILE)]
        return Measurement(
            layout=layout, timing=timings[-1], parent=timings[0] if len(timings) > 1 else None
        )

    def _spec(self, layout: Layout) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "engine": self.engine.record(),
            "device": device_record(self._device()),
            "scenario": self.scenario.to_dict(),
            "config": config_from_layout(self.config, layout).to_json_string(),
            "paired": self._paired(),
        }

    def _device(self) -> str:
        return str(getattr(self.engine, "device", "cpu"))

    def _paired(self) -> bool:
        return bool(getattr(self.engine, "takes_turns", False))

    def _build(self, layout: Layout, directory: Path) -> None:
        wanted = [Layout.parent(layout.shape), layout] if self._paired() else [layout]
        key = self.workspace.artifact("engine-runs", self._spec(layout)).key
        log = self.workspace.root / "logs" / f"{_file_name(self.engine.name)}-{key[:12]}.log"
        with self.workspace.scratch() as scratch:
            models = []
            for index, each in enumerate(wanted):
                models.append(scratch / f"model-{index}")
                models[-1].mkdir()
                config = config_from_layout(self.config, each)
                self.engine.write(config, self.scenario, models[-1])
            timings = self.engine.run(models, self.scenario, log=log)
        text = json.dumps([timing.to_dict() for timing in timings])
        (directory / FILE).write_text(text, encoding="utf-8")


def _file_name(name: str) -> str:
    """Returns a name that its user chose as part of a file's, which stays in its directory."""
    return re.sub(r"[^\w.-]+", "_", name)[:60] or "engine"


def _tuples(values: dict[str, list[float]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(value) for name, value in values.items()}
