"""Costs summed over sublayers, compared with whole layouts and corrected by them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

import numpy as np

from puzzle.costs.calibrated.design import candidates
from puzzle.costs.checked import layout_cost
from puzzle.costs.correction import Corrected, Correction, fit_correction
from puzzle.costs.measured.layout_times import LayoutTimes
from puzzle.costs.protocol import CostModel
from puzzle.estimates import Estimate, Sizes
from puzzle.limits.scenario import Scenario
from puzzle.stages import Run
from search_space import Layout, SearchSpace

__all__ = ["WholeLayouts"]

PHASES = ("prefill_seconds", "decode_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeLayouts:
    """Which whole layouts correct a cost model, and where they run.

    Args:
        space: Where the layouts are drawn from.
        scenario: The scenario to run.
        device: The device that the costs are of.
        layouts: How many besides the parent; the corrections' error needs three or more.
        seed: Seed of the random layouts.
        clock: As for `MeasuredCosts.measure`.
    """

    space: SearchSpace
    scenario: Scenario
    device: str
    layouts: int = 4
    seed: int = 0
    clock: str = "wall"

    @property
    def stages(self) -> list[LayoutTimes]:
        """The timing of each layout."""
        rng = np.random.default_rng(self.seed)
        return [
            LayoutTimes(layout=layout, scenario=self.scenario, device=self.device, clock=self.clock)
            for layout in candidates(self.space, self.layouts, rng)
        ]

    def correct(self, run: Run, costs: CostModel) -> tuple[Corrected, dict[str, Correction]]:
        """Returns the cost model corrected, and how far it was off before and after.

        A correction that predicts held-out layouts no better than the model alone is reported but
        not applied: on a noisy machine it would be noise.

        Args:
            run: The run.
            costs: A cost model that gives seconds on this device.
        """
        shape = self.space.shape
        stages = self.stages
        pairs = [run.get(stage) for stage in stages]
        layouts = [Layout.parent(shape), *(stage.layout for stage in stages)]
        predicted = [layout_cost(costs, layout, self.scenario) for layout in layouts]
        fixed = costs.fixed_cost(shape, self.scenario)
        corrections = {}
        for phase in PHASES:
            parent = statistics.median(getattr(pair.parent, phase) for pair in pairs)
            ratios = [getattr(pair.child, phase) / getattr(pair.parent, phase) for pair in pairs]
            corrections[phase] = fit_correction(
                [cost[phase] for cost in predicted],
                [parent, *(ratio * parent for ratio in ratios)],
                fixed=fixed[phase],
            )
        better = {name: c for name, c in corrections.items() if c.error < c.error_before}
        return Corrected(costs, {self.scenario: better}), corrections

    def estimate(self, sizes: Sizes) -> Estimate:
        """Returns what timing all the layouts takes."""
        each = self.stages[0].estimate(sizes)
        return replace(
            each,
            name="correction",
            work=f"{self.layouts} whole layouts besides the parent",
            seconds=self.layouts * each.seconds,
        )
