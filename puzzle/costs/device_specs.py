"""Published peak rates of devices, for planning without them.

Rates are dense: where a data sheet prints the doubled figure for structured sparsity, half of it
is given here. They are upper bounds that no program reaches; `Roofline` multiplies them by
efficiencies. Memory that data sheets call "GB" is counted in GiB, as the devices report it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from puzzle.errors import CostModelError
from puzzle.storage.plain_values import make_plain

__all__ = ["SPECS", "DeviceSpec", "device_spec"]

RATE_NAMES = ("float32", "bfloat16", "fp8", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """Peak rates of one device.

    Args:
        name: The name to look it up by.
        flops: Operations per second of dense matrix products, by number format: "bfloat16" at
            least, "float32", "fp8" and "int8" where they exist.
        memory: Bytes of memory; `math.inf` where it depends on what is installed.
        bandwidth: Bytes per second between memory and processor.
        link: Bytes per second to other devices, in one direction; 0 for none.
        watts: Power limit.
        source: Where the figures were read, or how they follow from what was read.

    Raises:
        CostModelError: A figure is missing or not a positive number.

    Example:
        >>> DeviceSpec(name="npu", flops={"bfloat16": 4e12}, memory=8e9, bandwidth=68e9,
        ...            source="my data sheet").bandwidth
        68000000000.0
    """

    name: str
    flops: Mapping[str, float]
    memory: float
    bandwidth: float
    link: float = 0.0
    watts: float | None = None
    source: str = field(compare=False)

    def __post_init__(self) -> None:
        make_plain(self)
        unknown = sorted(set(self.flops) - set(RATE_NAMES))
        if unknown or "bfloat16" not in self.flops:
            raise CostModelError(
                f"device {self.name!r}: flops has {sorted(self.flops)}; give bfloat16 and any of "
                f"{', '.join(RATE_NAMES)}"
            )
        rates = {f"flops[{name!r}]": rate for name, rate in self.flops.items()}
        for name, value in {**rates, "memory": self.memory, "bandwidth": self.bandwidth}.items():
            if not value > 0 or (math.isinf(value) and name != "memory"):
                raise CostModelError(
                    f"device {self.name!r}: {name} is {value!r}; give a number above zero, in "
                    "operations or bytes (per second)"
                )
        object.__setattr__(self, "flops", MappingProxyType(dict(self.flops)))


def _gpu(
    name: str, rates: tuple[float, float, float, float], memory: float, speed: tuple[float, float],
    watts: float, source: str,
) -> DeviceSpec:  # fmt: skip
    """Tera-operations of float32, bfloat16, fp8 and int8 (0: none), GiB, (GB/s, link GB/s), W."""
    flops = {name: 1e12 * rate for name, rate in zip(RATE_NAMES, rates, strict=True) if rate}
    return DeviceSpec(
        name=name,
        flops=flops,
        memory=2.0**30 * memory,
        bandwidth=1e9 * speed[0],
        link=1e9 * speed[1],
        watts=watts,
        source=source,
    )


def _apple(name: str, tera: float, memory: float, bandwidth: float, source: str) -> DeviceSpec:
    # The GPU computes 16-bit products at the rate of 32-bit ones.
    flops = {"float32": 1e12 * tera, "bfloat16": 1e12 * tera}
    return DeviceSpec(
        name=name, flops=flops, memory=2.0**30 * memory, bandwidth=1e9 * bandwidth, source=source
    )


def _cpu(
    name: str, clock: tuple[int, float], per_cycle: tuple[int, int, int],
    channels: tuple[int, int], watts: float, source: str,
) -> DeviceSpec:  # fmt: skip
    """Cores and Hz; operations per cycle and core of three formats; channels and MT/s of DDR5."""
    names, (cores, hertz) = ("float32", "bfloat16", "int8"), clock
    return DeviceSpec(
        name=name,
        flops={n: cores * hertz * ops for n, ops in zip(names, per_cycle, strict=True)},
        memory=math.inf,
        bandwidth=8e6 * channels[0] * channels[1],
        watts=watts,
        source=source + "; rates are cores x base clock x operations per cycle, one socket",
    )


_NEWSROOM = "Apple newsroom announcement of the chip"
_CORES = "; rate estimated: GPU cores x 128 lanes x 2 x about {} GHz, Apple publishes none"
_AMX = "Intel specification page; AMX: 1,024 bfloat16 and 2,048 int8 operations a cycle"
_ZEN = "AMD specification page; AVX-512 {} wide, VNNI and BF16"

# Links in one direction: data sheets print the sum of both.
_ALL = (
    _gpu("a100-sxm", (19.5, 312, 0, 624), 80, (2039, 300), 400, "NVIDIA A100 data sheet, 80GB"),
    _gpu("a100-pcie", (19.5, 312, 0, 624), 80, (1935, 32), 300, "NVIDIA A100 data sheet, 80GB"),
    _gpu("h100-sxm", (67, 989.4, 1978.9, 1978.9), 80, (3350, 450), 700, "NVIDIA H100 data sheet"),
    _gpu("h100-pcie", (51, 756, 1513, 1513), 80, (2000, 64), 350, "NVIDIA H100 data sheet"),
    _gpu("h200", (67, 989.4, 1978.9, 1978.9), 141, (4800, 450), 700, "NVIDIA H200 data sheet"),
    _gpu("b200", (80, 2250, 4500, 4500), 180, (8000, 900), 1000, "NVIDIA HGX B200 data sheet"),
    _gpu("l40s", (91.6, 362.05, 733, 733), 48, (864, 32), 350, "NVIDIA L40S data sheet"),
    _gpu("rtx-4090", (82.6, 165.2, 330.3, 660.6), 24, (1008, 32), 450,
         "NVIDIA Ada architecture white paper; 32-bit accumulation"),
    _gpu("mi300x", (163.4, 1307.4, 2614.9, 2614.9), 192, (5300, 448), 750, "AMD MI300X data sheet"),
    _apple("apple-m1", 2.6, 16, 68.25, _NEWSROOM),
    _apple("apple-m1-max", 10.4, 64, 400, _NEWSROOM),
    _apple("apple-m1-ultra", 20.8, 128, 800, _NEWSROOM),
    _apple("apple-m2", 3.6, 24, 100, _NEWSROOM),
    _apple("apple-m2-ultra", 27.2, 192, 800, _NEWSROOM),
    _apple("apple-m3-ultra", 28.3, 512, 819, _NEWSROOM + _CORES.format(1.38)),
    _apple("apple-m4-max", 16.2, 128, 546, _NEWSROOM + _CORES.format(1.58)),
    _cpu("xeon-8480", (56, 2.0e9), (64, 1024, 2048), (8, 4800), 350, _AMX),
    _cpu("epyc-9654", (96, 2.4e9), (32, 64, 128), (12, 4800), 360, _ZEN.format("256 bits")),
    _cpu("epyc-9755", (128, 2.7e9), (64, 128, 256), (12, 6400), 500, _ZEN.format("512 bits")),
)  # fmt: skip

SPECS: Mapping[str, DeviceSpec] = MappingProxyType({spec.name: spec for spec in _ALL})
"""The table, by name."""


def device_spec(name: str) -> DeviceSpec:
    """Returns the published rates of a device.

    Args:
        name: A name such as "h100-sxm"; case does not matter.

    Raises:
        CostModelError: The device is not in the table.

    Example:
        >>> device_spec("h200").bandwidth
        4800000000000.0
    """
    spec = SPECS.get(str(name).lower())
    if spec is None:
        near = difflib.get_close_matches(str(name).lower(), SPECS, n=3, cutoff=0.4)
        hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
        raise CostModelError(
            f"no device {name!r} in the table{hint}; it has {', '.join(SPECS)}; for another one, "
            "pass a DeviceSpec"
        )
    return spec
