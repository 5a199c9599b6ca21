"""TensorParallel: devices that share each layer, and what adding up their outputs takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from puzzle.errors import CostModelError
from puzzle.limits.scenario import Scenario
from puzzle.storage.plain_values import plain
from search_space import Block, ModelShape
from search_space.device_shares import device_share, is_divided

# What programs reach of a link's bandwidth, and the additional seconds of each all-reduce: the
# first assumed, the second fitted with the roofline's efficiencies (docs/results/costs.md).
LINK_SHARE, SYNCHRONISE = 0.7, 2.5e-5
# Devices in one machine, or two.
MOST_DEVICES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorParallel:
    """Devices that share each layer of a model.

    Args:
        devices: How many.
        link: Bytes per second between them, in one direction.
        share: Share of it that is reached.
        synchronise: Additional seconds of each all-reduce.
    """

    devices: int = 1
    link: float = 0.0
    share: float = LINK_SHARE
    synchronise: float = SYNCHRONISE

    def all_reduce(self, size: float) -> float:
        """Returns the seconds of adding up some bytes of each device on all, in a ring."""
        if self.devices == 1:
            return 0.0
        moved = 2 * (self.devices - 1) / self.devices * size
        return moved / (self.link * self.share) + self.synchronise

    def exchange(self, shape: ModelShape, block: Block, scenario: Scenario) -> tuple[float, float]:
        """Returns the seconds in which a block's outputs are added up: for prompts, for replies.

        Args:
            shape: The parent's sizes.
            block: The block.
            scenario: Batch, lengths and number format.
        """
        sums = is_divided(block.attention) + is_divided(block.ffn)
        token = scenario.batch * shape.hidden * scenario.weight_bytes
        prompt = sums * self.all_reduce(token * scenario.prompt_tokens)
        return prompt, sums * scenario.generated_tokens * self.all_reduce(token)


def require_devices(count: int, shape: ModelShape) -> int:
    """Returns a number of devices that can share the parent's layers.

    Args:
        count: The number.
        shape: The parent's sizes.

    Raises:
        CostModelError: It is none; the message says which are.
    """

    def fits(devices: int) -> bool:
        return all(device_share(shape, each, devices) for each in set(shape.parent_blocks))

    number = plain(count)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1 or not fits(number):
        allowed = [n for n in range(1, MOST_DEVICES + 1) if fits(n)]
        raise CostModelError(
            f"tensor_parallel={count!r}; allowed for this parent, whose heads and channels are "
            f"divided evenly: {allowed}"
        )
    return number


def require_link(link: float | None, devices: int) -> TensorParallel:
    """Returns the devices with the link that measured costs need, which no device says of itself.

    Args:
        link: Bytes per second in one direction.
        devices: How many devices.

    Raises:
        CostModelError: There is no bandwidth.
    """
    if devices == 1:
        return TensorParallel()
    if link is None or not (math.isfinite(link) and link > 0):
        raise CostModelError(
            f"tensor_parallel={devices} with link={link!r}; give the bandwidth between the devices "
            "in one direction: link= in GB/s in the name of the hardware, such as 'cuda,"
            "tensor_parallel=2,link=450', else in bytes per second. docs/hardware.md has those of "
            "some devices"
        )
    return TensorParallel(devices=devices, link=float(link))
