"""The sum over sublayers held against whole layouts, run on this device with random weights."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from puzzle.costs.calibrated.design import candidates
from puzzle.costs.checked import layout_cost
from puzzle.costs.correction import Corrected, Correction, fit_correction
from puzzle.costs.measured.replies import speed
from puzzle.costs.protocol import CostModel
from puzzle.hardware.fast_format import fast_format
from puzzle.hardware.identity import device_identity
from puzzle.limits.scenario import Scenario
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.child_config import config_from_layout
from puzzle.models.parent import DTYPES, Parent
from puzzle.storage.workspace import Workspace
from search_space import Layout, SearchSpace

__all__ = ["corrected_by_layouts"]

KIND, SECONDS = "assembled", "seconds.json"
PHASES = ("prefill_seconds", "decode_seconds")
ROUNDS = 3
# Part of every artifact's name: raise it when what is timed changes.
FORMAT = 3


def corrected_by_layouts(
    costs: CostModel,
    parent: Parent,
    space: SearchSpace,
    scenario: Scenario,
    *,
    workspace: Workspace,
    layouts: int = 4,
    seed: int = 0,
    device: str = "cpu",
    clock: str = "wall",
) -> tuple[Corrected, dict[str, Correction]]:
    """Returns the cost model corrected by whole layouts, and how far it was off before and after.

    A correction that does not predict layouts left out better than the model alone is told and
    not applied: on a noisy machine it would be noise.

    The parent and some layouts of the space, each with random weights, are run in the scenario;
    each takes turns with the parent, and counts as a share of its seconds, so that a slow spell
    of the machine falls on both. Two models are in memory at a time.

    Args:
        costs: A model of seconds on this device.
        parent: The parent; its config and sizes are used.
        space: Where the layouts are drawn from.
        scenario: What is run.
        workspace: Where the seconds are stored.
        layouts: How many beside the parent; the corrections' own error needs three or more.
        seed: Of the layouts.
        device: Where they are run: what the costs are of.
        clock: As for `MeasuredCosts.measure`.
    """
    served = scenario.served_in(fast_format(device, workspace=workspace).name)
    rng = np.random.default_rng(seed)
    drawn = [Layout.parent(space.shape), *candidates(space, layouts, rng)]
    spec = {
        "device": device_identity(device),
        "scenario": served.to_dict(),
        "config": config_from_layout(parent.config, drawn[0]).to_json_string(),
        "layouts": [[block.label for block in layout.blocks] for layout in drawn],
        "rounds": ROUNDS,
        "clock": clock,
        "format": FORMAT,
    }

    def build(directory: Path) -> None:
        found = _seconds(parent, drawn, served, device, clock)
        (directory / SECONDS).write_text(json.dumps(found), encoding="utf-8")

    measured = workspace.get_or_build(KIND, spec, build).load_json(SECONDS)
    fixed = costs.fixed_cost(space.shape, scenario)
    predicted = [layout_cost(costs, layout, scenario) for layout in drawn]
    corrections = {
        phase: fit_correction([p[phase] for p in predicted], measured[phase], fixed=fixed[phase])
        for phase in PHASES
    }
    better = {name: c for name, c in corrections.items() if c.error < c.error_before}
    return Corrected(costs, {scenario: better}), corrections


def _seconds(
    parent: Parent, layouts: Sequence[Layout], scenario: Scenario, device: str, clock: str
) -> dict[str, list[float]]:
    """Returns the seconds of each phase, by layout; the first layout is the parent's."""
    dtype = DTYPES[scenario.served_dtype]
    own = _random_weights(parent, layouts[0], dtype)
    pairs = []
    for layout in layouts[1:]:
        models = {"parent": own, "child": _random_weights(parent, layout, dtype)}
        pairs.append(speed(models, scenario, rounds=ROUNDS, device=device, clock=clock))
    found = {}
    for phase in PHASES:
        whole = statistics.median(pair["parent"][phase] for pair in pairs)
        shares = [pair["child"][phase] / pair["parent"][phase] for pair in pairs]
        found[phase] = [whole, *(share * whole for share in shares)]
    return found


def _random_weights(parent: Parent, layout: Layout, dtype: torch.dtype) -> PuzzleForCausalLM:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return PuzzleForCausalLM(config_from_layout(parent.config, layout)).eval()
    finally:
        torch.set_default_dtype(before)
