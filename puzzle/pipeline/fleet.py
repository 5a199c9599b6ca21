"""Fleet: devices that are not here, as far as a plan needs them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace

from puzzle.costs.device_specs import DeviceSpec, device_spec
from puzzle.costs.roofline import Efficiency
from puzzle.errors import SettingError
from puzzle.estimates import Estimate
from puzzle.hardware.rates import Rates
from puzzle.storage.plain_values import count_of, make_plain

ASSUMED_OF_FLEET = (
    "devices reach {compute:.0%} of their published operations and {memory:.0%} of their bandwidth",
    "weights are read from the storage each time, at its speed for all processes together, and not "
    "while anything is computed; streams between layers stay in the hosts' memory (scratch)",
    "one thread hashes {hashing:.2f} GB/s",
    "layers are dealt out evenly, and nothing waits for a queue",
)
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Devices of one kind, and the storage that they share.

    Args:
        device: What one of them computes and holds.
        count: How many there are; layers are built on all, everything else runs on one.
        storage: Bytes per second that the storage gives, to all of them together.
        efficiency: The shares of the published rates that are reached.

    Raises:
        SettingError: A number is not positive.

    Example:
        >>> fleet = Fleet.named("8xh100-sxm", "12GB/s")
        >>> fleet.count, fleet.storage, fleet.rates.model < fleet.device.flops["bfloat16"]
        (8, 12000000000.0, True)
    """

    device: DeviceSpec
    count: int = 1
    storage: float = 3e9
    efficiency: Efficiency = field(default_factory=Efficiency)

    def __post_init__(self) -> None:
        make_plain(self)
        count_of("devices", self.count, error=SettingError)
        if not 0 < self.storage < math.inf:
            raise SettingError(f"storage={self.storage!r}; allowed: bytes per second above 0")

    @classmethod
    def named(cls, devices: str, storage: str | float | None = None) -> Fleet:
        """Returns the fleet that words describe.

        Args:
            devices: Number and name, such as "8xh100-sxm"; a name alone is one device.
            storage: Its speed, such as "12GB/s", or bytes per second; by default 3 GB/s, as of one
                local NVMe disk.

        Raises:
            SettingError: The words are not of this form.
            CostModelError: There is no such device in the table.
        """
        match = re.fullmatch(r"(?:(\d+)\s*x\s*)?(\S+)", devices.strip(), re.IGNORECASE)
        if match is None:
            raise SettingError(f"devices={devices!r}; allowed: such as 8xh100-sxm, or h200")
        fleet = cls(device=device_spec(match[2]), count=int(match[1] or 1))
        return fleet if storage is None else replace(fleet, storage=_bytes_per_second(storage))

    @property
    def rates(self) -> Rates:
        """How fast one device computes."""
        flops, share = self.device.flops, self.efficiency.compute
        return Rates(
            model=share * flops["bfloat16"],
            fits=share * flops.get("float32", flops["bfloat16"]),
            bandwidth=self.efficiency.memory * self.device.bandwidth,
        )

    @property
    def assumed(self) -> tuple[str, ...]:
        """What its times assume."""
        share = self.efficiency
        numbers = {"compute": share.compute, "memory": share.memory}
        hashing = self.rates.hashing / 1e9
        return tuple(line.format(**numbers, hashing=hashing) for line in ASSUMED_OF_FLEET)

    def timed(self, step: Estimate) -> Estimate:
        """Returns a stage with the seconds that it takes here, with its reading.

        Args:
            step: The stage, as one device computes it.
        """
        ways = min(self.count, step.jobs)
        # The largest share of a number of equal jobs.
        share = math.ceil(step.jobs / ways) / step.jobs
        computed = step.alone + (step.seconds - step.alone) * share
        hashed = step.hashed / self.rates.hashing
        return replace(step, seconds=computed + hashed + step.reads / self.storage)


def _bytes_per_second(word: str | float) -> float:
    match = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*([kmgt]?)(?:b(?:/s)?)?", str(word).strip().lower())
    try:
        return float(match[1]) * _UNITS[match[2]] if match else float(word)
    except ValueError:
        raise SettingError(f"storage={word!r}; allowed: such as 12GB/s") from None
