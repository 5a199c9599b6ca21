"""PerScenario: several cost models, one for each scenario."""

from __future__ import annotations

from collections.abc import Mapping

from puzzle.costs.answering import block_cost_of, fixed_cost_of
from puzzle.costs.protocol import CostModel
from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from search_space import Block, ModelShape

__all__ = ["PerScenario"]


class PerScenario:
    """A cost model that combines one for each scenario, as measured costs require.

    Args:
        models: The cost model of each scenario. Any other scenario, such as one with another
            batch, is passed to the first model.

    Raises:
        CostModelError: No model is given.
    """

    def __init__(self, models: Mapping[Scenario, CostModel]) -> None:
        if not models:
            raise CostModelError("no cost models; give one for each scenario")
        self.models = dict(models)
        self.first = next(iter(self.models.values()))

    @property
    def resources(self) -> Mapping[str, str]:
        """Unit of each resource that all the models give, by name."""
        every = [set(model.resources) for model in self.models.values()]
        return {n: unit for n, unit in self.first.resources.items() if all(n in r for r in every)}

    def block_cost(self, layer: int, block: Block, scenario: Scenario) -> dict[str, float]:
        """Returns the cost of one block in the scenario, by resource."""
        cost = block_cost_of(self.models.get(scenario, self.first), layer, block, scenario)
        return {name: cost[name] for name in self.resources}

    def fixed_cost(self, shape: ModelShape, scenario: Scenario) -> dict[str, float]:
        """Returns the fixed cost in the scenario, by resource."""
        cost = fixed_cost_of(self.models.get(scenario, self.first), shape, scenario)
        return {name: cost[name] for name in self.resources}
