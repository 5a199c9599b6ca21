"""What a search will take of time, memory and disk: the estimates of its stages, added up."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from puzzle.errors import PuzzleError
from puzzle.estimates import Estimate, Sizes
from puzzle.hardware.device_memory import total_memory
from puzzle.hardware.format_speed import fast_format
from puzzle.hardware.precision import AUTO
from puzzle.hardware.rates import Rates
from puzzle.pipeline.fleet import Fleet
from puzzle.pipeline.opening import working_device
from puzzle.pipeline.steps import Steps
from puzzle.text.data_config import DataConfig

ASSUMED = (
    "nothing is in the run directory yet, and no gradient steps are taken for the library",
    "a sublayer takes 0.1 ms of overhead in each pass, and timing ends after the fewest rounds",
    "Fisher scores take all their rounds of probes; where scores are hybrid, a tenth are exact",
    "the first layout chosen keeps its limits when it is measured",
)


# Memory does not depend on how fast a machine is.
UNKNOWN = Rates(model=1.0, fits=1.0, bandwidth=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What stages will take.

    Args:
        steps: The stages in their order.
        rates: The rates that the seconds follow from.
        room: Bytes of memory of the device that stages run on.
        assumed: What the estimates assume.
    """

    steps: tuple[Estimate, ...]
    rates: Rates
    room: float = math.inf
    assumed: tuple[str, ...] = ASSUMED

    @property
    def seconds(self) -> float:
        """The seconds of all stages together."""
        return sum(step.seconds for step in self.steps)

    @property
    def memory(self) -> float:
        """The bytes of memory of the stage that needs most."""
        return max((step.memory for step in self.steps), default=0.0)

    @property
    def too_large(self) -> tuple[Estimate, ...]:
        """The stages that need more memory than there is."""
        return tuple(step for step in self.steps if step.memory > self.room)

    def require_memory(self, where: str) -> None:
        """Refuses a search that cannot fit.

        Args:
            where: The device, as it is called in the message.

        Raises:
            PuzzleError: A stage needs more memory than there is; it is named.
        """
        if self.too_large:
            worst = max(self.too_large, key=lambda step: step.memory)
            raise PuzzleError(
                f"the stage {worst.name!r} needs about {worst.memory / 1e9:.1f} GB of memory, and "
                f"{where} has {self.room / 1e9:.1f} GB; use a larger device, or less text (a "
                'smaller window), or choose channels without elimination (channels="largest" of '
                "LibraryConfig)"
            )

    @property
    def disk(self) -> float:
        """The bytes on disk of all stages together."""
        return sum(step.disk for step in self.steps)

    @property
    def reads(self) -> float:
        """The bytes of weights that all stages together read."""
        return sum(step.reads for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "steps": [asdict(step) for step in self.steps],
            "seconds": self.seconds,
            "memory": self.memory,
            "device_memory": self.room if math.isfinite(self.room) else None,
            "disk": self.disk,
            "reads": self.reads,
            "rates": asdict(self.rates),
            "assumed": list(self.assumed),
        }


def plan(
    steps: Steps,
    data: DataConfig,
    *,
    names: Collection[str] | None = None,
    working: str = AUTO,
    rates: Rates | None = None,
    device: str = "cpu",
    room: float = math.inf,
    fleet: Fleet | None = None,
) -> Plan:
    """Estimates what the stages of a search take, without a model or a text.

    Args:
        steps: The search.
        data: How much text.
        names: Names of the stages that are run; all of the search's if not given.
        working: The number format that the parent works in, as in `Precision`.
        rates: The machine's rates; measured if not given.
        device: The kind of device that stages run on, "cpu" or "cuda", which need not be on this
            machine.
        room: Its bytes of memory; `Plan.too_large` names what does not fit into them.
        fleet: Devices that are not here, with which rates, device and room are those of one of
            them; layers are then built on all, and the seconds include reading.

    Example:
        >>> shape = ModelShape(layers=2, hidden=64, heads=4, head_dim=16, kv_heads=2,
        ...                    ffn_width=256, vocab=100)
        >>> steps = Steps(space=SearchSpace.preset(shape, "small"),
        ...               workload=Workload.of(Scenario()), hardware="roofline:h100-sxm")
        >>> estimate = plan(steps, DataConfig(),
        ...                 rates=Rates(model=1e11, fits=1e11, bandwidth=1e10))
        >>> [step.name for step in estimate.steps]
        ['opening', 'costs', 'library', 'scores', 'healing', 'quality']
        >>> there = plan(steps, DataConfig(), fleet=Fleet.named("8xh100-sxm", "12GB/s"))
        >>> there.room == 80 * 2**30 and there.seconds < estimate.seconds
        True
    """
    shape = steps.space.shape
    if fleet is not None:
        rates, device, room = fleet.rates, "cuda", fleet.device.memory
    if rates is None:
        rates = Rates.measure(shape, fast_format().name if working == AUTO else working)
    scenario = next(iter(steps.workload.scenarios.values()))
    sizes = Sizes(
        shape=shape,
        data=data,
        scenario=scenario,
        rates=rates,
        held_out=steps.config.held_out,
        room=room,
        on_gpu=not device.startswith("cpu"),
    )
    if fleet is not None:
        sizes = replace(sizes, used=0.0, workers=fleet.count if fleet.count > 1 else 0)
    chosen = [e for e in steps.estimates(sizes) if names is None or e.name in names]
    if fleet is not None:
        timed = tuple(map(fleet.timed, chosen))
        return Plan(steps=timed, rates=rates, room=room, assumed=(*ASSUMED, *fleet.assumed))
    here = tuple(replace(e, seconds=e.seconds + e.hashed / rates.hashing) for e in chosen)
    return Plan(steps=here, rates=rates, room=room)


def device_room(device: str | None, hardware: Any) -> tuple[str, int]:
    """Returns where a search would work on this machine, and the bytes of memory there.

    Args:
        device: As for `puzzle.search`.
        hardware: As for `puzzle.search`.
    """
    place = working_device(device, hardware)
    return place, total_memory(place)


def require_memory(steps: Steps, data: DataConfig, device: torch.device) -> None:
    """Refuses a search that cannot fit into a device's memory, before any work is done.

    Args:
        steps: The search.
        data: How much text.
        device: Where it runs.

    Raises:
        PuzzleError: A stage needs more memory than the device has; it is named.
    """
    estimated = plan(steps, data, rates=UNKNOWN, device=device.type, room=total_memory(device))
    estimated.require_memory(str(device))
