"""Steps: one description of a search, whose stages are run, planned, resumed and distributed."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from puzzle.choice.layout_choice import Effort, LayoutChoice, choice_work
from puzzle.costs.by_name import HardwareCosts, timed_device
from puzzle.costs.correction import Correction
from puzzle.costs.counted import with_counts
from puzzle.costs.measured.layout_times import LayoutTimes, pair_fits
from puzzle.costs.measured.whole_layouts import WholeLayouts
from puzzle.costs.per_scenario import PerScenario
from puzzle.costs.protocol import CostModel
from puzzle.errors import DataError
from puzzle.estimates import Estimate, Sizes
from puzzle.evaluation.child_quality import ChildQuality
from puzzle.library.build import BlockLibrary, Library
from puzzle.library.layers import LibrarySpec
from puzzle.library.settings import LibraryConfig
from puzzle.library.text_length import require_longer_text
from puzzle.limits.scenario import Scenario, Workload
from puzzle.scoring.exact_scores import ExactScores
from puzzle.scoring.fisher_scores import FisherScores
from puzzle.scoring.hybrid_scores import HybridConfig, HybridScores
from puzzle.scoring.scores import Scores
from puzzle.stages import Run, Stage
from puzzle.storage.workspace import ArtifactRef
from search_space import Layout, SearchSpace
from solvers import ChoiceProblem, Solution

logger = logging.getLogger(__name__)
# The text of the last figures, and that which says whether healing helped.
LAST = ("validation", "score")
NEAR = "near"
# Near scores begin as estimates, some of which the choice makes exact.
SCORES: dict[str, Any] = {
    "fisher": FisherScores,
    "hybrid": HybridScores,
    NEAR: partial(HybridScores, config=HybridConfig(trust=None)),
    "exact": ExactScores,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """The costs of a search.

    Args:
        costs: One cost model for all scenarios, with all that can be counted.
        own: The cost model of each scenario as it was measured, modelled or given.
        corrections: How far predictions were from whole layouts, by scenario and resource.
    """

    costs: CostModel
    own: dict[Scenario, CostModel]
    corrections: dict[Scenario, dict[str, Correction]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steps:
    """A search as values: each stage it runs, without a parent opened or a text read.

    Args:
        space: The alternatives of each layer.
        workload: The scenarios.
        hardware: The hardware that costs describe.
        effort: How much is measured before a layout is chosen.
        config: How variants are made.
        method: "fisher", "hybrid", "near" or "exact" scores; by default the effort's.
    """

    space: SearchSpace
    workload: Workload
    hardware: str | os.PathLike[str] | CostModel = "cpu"
    effort: Effort = field(default_factory=Effort)
    config: LibraryConfig = field(default_factory=LibraryConfig)
    method: str | None = None

    def costs(self, scenario: Scenario) -> HardwareCosts:
        """Returns the stage of one scenario's costs."""
        return HardwareCosts(hardware=self.hardware, space=self.space, scenario=scenario)

    def price(self, run: Run) -> Priced:
        """Returns the costs in all scenarios.

        Costs measured on a device are corrected by whole layouts, where the effort measures.

        Raises:
            DataError: The text is too short to tell what a window of the space loses.
        """
        if run.windows is not None:
            require_longer_text(self.space, run.windows.fit.shape[1])
        scenarios = tuple(self.workload.scenarios.values())
        own = {scenario: run.get(self.costs(scenario)) for scenario in scenarios}
        shape = self.space.shape
        counted = {scenario: with_counts(costs, shape) for scenario, costs in own.items()}
        costs = PerScenario(counted) if len(counted) > 1 else counted[scenarios[0]]
        corrections = {}
        device = timed_device(self.hardware)
        if device is not None and self.effort.measures:
            for each in (each for each in scenarios if pair_fits(shape, each, device)):
                whole = WholeLayouts(space=self.space, scenario=each, device=device)
                costs, corrections[each] = whole.correct(run, costs)
        return Priced(costs=costs, own=own, corrections=corrections)

    @property
    def library(self) -> BlockLibrary:
        """The stage of the block library."""
        return BlockLibrary(spec=LibrarySpec(space=self.space, config=self.config))

    @property
    def near(self) -> bool:
        """Whether the choice makes the scores exact for the blocks of its best layouts."""
        return (self.method or self.effort.scores) == NEAR

    def scores(self, layers: tuple[ArtifactRef, ...] = ()) -> Stage[Scores]:
        """Returns the stage of the scores; of near ones, that of the estimates they begin as.

        Args:
            layers: The library's layers.

        Raises:
            DataError: There is no such method.
        """
        method = self.method or self.effort.scores
        if method not in SCORES:
            raise DataError(f"scores={method!r}; allowed: {', '.join(SCORES)}")
        stage: Stage[Scores] = SCORES[method](space=self.space, layers=layers)
        return stage

    def choice(
        self, problem: ChoiceProblem, optimum: Solution, layers: tuple[ArtifactRef, ...]
    ) -> LayoutChoice:
        """Returns the stage in which a layout is chosen."""
        return LayoutChoice(
            problem=problem,
            optimum=optimum,
            layers=layers,
            space=self.space,
            effort=self.effort,
            held_out=self.config.held_out,
        )

    def healing(self, layout: Layout) -> BlockLibrary:
        """Returns the stage that fits a layout's blocks to the stream of its child."""
        spec = LibrarySpec(space=layout, config=self.config, around=layout)
        return BlockLibrary(spec=spec)

    def quality(self, layout: Layout, library: Library, part: str = "validation") -> ChildQuality:
        """Returns the stage of a child's quality on a part of the text."""
        return ChildQuality(layout=layout, layers=library.refs, part=part)

    def nearer(self, run: Run, layout: Layout, healed: Library, library: Library) -> Library:
        """Returns the healed blocks, or those of the library where these are nearer to the parent.

        The text that scored the blocks tells, so that the validation text stays unused.
        """
        kls = [run.get(self.quality(layout, each, part="score")).kl for each in (healed, library)]
        if kls[0] <= kls[1]:
            return healed
        logger.warning(
            "healing makes this child worse (KL %.4f instead of %.4f on the text of the scores): "
            "it has the library's own fits",
            *kls,
        )
        return library

    def estimates(self, sizes: Sizes) -> tuple[Estimate, ...]:
        """Returns what each stage takes, in their order."""
        own = Layout.parent(self.space.shape)
        scenarios = tuple(self.workload.scenarios.values())
        device = timed_device(self.hardware)
        library = self.library.estimate(sizes)
        sizes = replace(sizes, library=library.disk)
        estimates = [sizes.opening(), *(self.costs(each).estimate(sizes) for each in scenarios)]
        if device is not None and self.effort.measures:
            for each in scenarios:
                whole = WholeLayouts(space=self.space, scenario=each, device=device)
                estimates.append(whole.estimate(sizes))
        estimates += [library, self.scores().estimate(sizes)]
        if self.effort.measures or self.near:
            estimates.append(choice_work(self.effort, self.space, sizes))
        estimates.append(self.healing(own).estimate(sizes.for_healing))
        if device is not None:
            stages = (LayoutTimes(layout=own, scenario=s, device=device) for s in scenarios)
            estimates += [stage.estimate(sizes) for stage in stages]
        # `nearer` measures the healed child and that of the library on the score text.
        last, either = (ChildQuality(layout=own, part=p).estimate(sizes) for p in LAST)
        seconds, reads = last.seconds + 2 * either.seconds, last.reads + 2 * either.reads
        return (*estimates, replace(last, seconds=seconds, reads=reads))
