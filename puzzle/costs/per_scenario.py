"""PerScenario: several cost models, each for scenarios of its own."""

from __future__ import annotations

from collections.abc import Mapping

from puzzle.costs.protocol import CostModel
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from search_space import Block, ModelShape

__all__ = ["PerScenario"]


class PerScenario:
    """A cost model made of one for each scenario, as measuring needs.

    Args:
        models: The cost model of each scenario. A scenario that is not there, such as one at
            another batch, is asked of the first.

    Raises:
        CostModelError: There is none.
    """

    def __init__(self, models: Mapping[Scenario, CostModel]) -> None:
        if not models:
            raise CostModelError("no cost models; give one for each scenario")
        self.models = dict(models)
        self.first = next(iter(self.models.values()))

    @property
    def resources(self) -> Mapping[str, str]:
        """Unit of each resource, by name: those that all the models give."""
        every = [set(model.resources) for model in self.models.values()]
        return {n: unit for n, unit in self.first.resources.items() if all(n in r for r in every)}

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> dict[str, float]:
        """Returns what one block takes in the scenario, by resource."""
        found = self.models.get(scenario, self.first).block_cost(layer, block, scenario)
        return {name: found[name] for name in self.resources}

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
        """Returns what a model takes whatever its blocks are, by resource."""
        found = self.models.get(scenario, self.first).fixed_cost(shape, scenario)
        return {name: found[name] for name in self.resources}
