"""What a search will take of time, memory and disk: the estimates of its stages, added up."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from puzzle.estimates import Estimate, Sizes
from puzzle.hardware.format_speed import fast_format
from puzzle.hardware.precision import AUTO
from puzzle.hardware.rates import Rates
from puzzle.pipeline.steps import Steps
from puzzle.text.data_config import DataConfig

ASSUMED = (
    "nothing is in the run directory yet, and no gradient steps are taken for the library",
    "a sublayer takes 0.1 ms of overhead in each pass, and timing ends after the fewest rounds",
    "Fisher scores take all their rounds of probes; where scores are hybrid, a tenth are exact",
    "the first layout chosen keeps its limits when it is measured",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What stages will take.

    Args:
        steps: The stages in their order.
        rates: The rates that the seconds follow from.
    """

    steps: tuple[Estimate, ...]
    rates: Rates

    @property
    def seconds(self) -> float:
        """The seconds of all stages together."""
        return sum(step.seconds for step in self.steps)

    @property
    def memory(self) -> float:
        """The bytes of memory of the stage that needs most."""
        return max((step.memory for step in self.steps), default=0.0)

    @property
    def disk(self) -> float:
        """The bytes on disk of all stages together."""
        return sum(step.disk for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "steps": [asdict(step) for step in self.steps],
            "seconds": self.seconds,
            "memory": self.memory,
            "disk": self.disk,
            "rates": asdict(self.rates),
            "assumed": list(ASSUMED),
        }


def plan(
    steps: Steps,
    data: DataConfig,
    *,
    names: Collection[str] | None = None,
    working: str = AUTO,
    rates: Rates | None = None,
) -> Plan:
    """Estimates what the stages of a search take, without a model or a text.

    Args:
        steps: The search.
        data: How much text.
        names: Names of the stages that are run; all of the search's if not given.
        working: The number format that the parent works in, as in `Precision`.
        rates: The machine's rates; measured if not given.

    Example:
        >>> shape = ModelShape(layers=2, hidden=64, heads=4, head_dim=16, kv_heads=2,
        ...                    ffn_width=256, vocab=100)
        >>> steps = Steps(space=SearchSpace.preset(shape, "small"),
        ...               workload=Workload.of(Scenario()), hardware="roofline:h100-sxm")
        >>> estimate = plan(steps, DataConfig(),
        ...                 rates=Rates(model=1e11, fits=1e11, bandwidth=1e10))
        >>> [step.name for step in estimate.steps]
        ['costs', 'library', 'scores', 'healing', 'quality']
    """
    shape = steps.space.shape
    if rates is None:
        rates = Rates.measure(shape, fast_format().name if working == AUTO else working)
    scenario = next(iter(steps.workload.scenarios.values()))
    sizes = Sizes(
        shape=shape, data=data, scenario=scenario, rates=rates, held_out=steps.config.held_out
    )
    estimates = steps.estimates(sizes)
    chosen = tuple(e for e in estimates if names is None or e.name in names)
    return Plan(steps=chosen, rates=rates)
