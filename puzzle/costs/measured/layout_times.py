"""LayoutTimes: the seconds of a whole layout and of its parent on a device, as a stage.

Speed does not depend on the weights, so that random ones are run: a layout can be timed before its
child is built, and its seconds serve both to correct the costs and to compare child and parent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from puzzle.costs.checked import layout_cost
from puzzle.costs.measured.replies import LEAST_ROUNDS, SHORTEST, Pair, reply_steps, time_pair
from puzzle.costs.measured.stacks import contexts
from puzzle.costs.measured.sublayer_times import here
from puzzle.errors import DamagedArtifactError
from puzzle.estimates import Estimate, Sizes
from puzzle.hardware.device_memory import free_memory
from puzzle.hardware.identity import device_identity, software_versions
from puzzle.limits.scenario import Scenario
from puzzle.models.assembling import random_model
from puzzle.models.child_config import config_from_layout
from puzzle.stages import ArtifactStage, Run
from puzzle.storage.json_files import interpreting
from puzzle.storage.workspace import Artifact
from search_space import Layout, ModelShape, counting

FILE = "replies.json"
logger = logging.getLogger(__name__)


def pair_bytes(shape: ModelShape, scenario: Scenario) -> float:
    """Returns the bytes of two models of the parent's size, with their caches."""
    own = Layout.parent(shape)
    cache = counting.kv_bytes(own, scenario.sequence_tokens, scenario.cache_bytes)
    return 2.0 * (own.parameters() * scenario.weight_bytes + scenario.batch * cache)


def pair_fits(shape: ModelShape, scenario: Scenario, device: str) -> bool:
    """Returns whether a layout and its parent fit beside each other into what memory is free.

    Where they do not, that is logged: their seconds stay unknown.
    """
    needed, free = pair_bytes(shape, scenario), free_memory(device)
    if needed <= free:
        return True
    logger.warning(
        "whole models are not timed: the parent and a child need %.1f GB of memory, and %s has "
        "%.1f GB free",
        needed / 1e9,
        device,
        free / 1e9,
    )
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutTimes(ArtifactStage[Pair]):
    """A layout with random weights, timed in turns with its parent.

    Args:
        layout: The layout.
        scenario: The scenario to run.
        device: Where it runs.
        clock: As for `MeasuredCosts.measure`.
    """

    kind: ClassVar[str] = "layout-times"
    format: ClassVar[int] = 2
    layout: Layout
    scenario: Scenario
    device: str
    clock: str = "wall"

    def key(self, run: Run) -> Mapping[str, Any]:
        """Returns what the seconds depend on."""
        return {
            "device": device_identity(self.device),
            "versions": software_versions(),
            "scenario": self.scenario.to_dict(),
            "config": config_from_layout(run.parent.config, self.layout).to_json_string(),
            "clock": self.clock,
        }

    def build(self, run: Run, directory: Path) -> None:
        """Runs both; two models are in memory."""
        own = Layout.parent(run.parent.shape)
        parent, child = (
            random_model(
                config_from_layout(run.parent.config, layout),
                self.scenario.served_dtype,
                self.device,
            )
            for layout in (own, self.layout)
        )
        pair = time_pair(parent, child, self.scenario, device=self.device, clock=self.clock)
        (directory / FILE).write_text(json.dumps(pair.to_dict()), encoding="utf-8")

    def load(self, run: Run, artifact: Artifact) -> Pair:
        """Returns the times of both."""
        with interpreting(artifact.path / FILE, "timings of a layout", DamagedArtifactError):
            return Pair.from_dict(artifact.load_json(FILE))

    def estimate(self, sizes: Sizes) -> Estimate:
        """Returns what the minimum of rounds takes."""
        cost = layout_cost(here(sizes), sizes.own, self.scenario)
        step = max(cost["decode_seconds"] / self.scenario.generated_tokens, SHORTEST)
        steps = len(contexts(self.scenario)) * (1 + reply_steps(step, self.scenario))
        rounds, needed = LEAST_ROUNDS, pair_bytes(sizes.shape, self.scenario)
        return Estimate(
            name="measurement",
            work=f"parent and child in turns, {rounds} rounds or more",
            # The warm-up decodes.
            seconds=2 * (rounds * cost["prefill_seconds"] + (1 + rounds) * steps * step),
            # Where the two do not fit, they are not timed.
            memory=sizes.used + (needed if needed <= sizes.room else 0.0),
            disk=0.0,
        )
