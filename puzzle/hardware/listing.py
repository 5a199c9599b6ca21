"""devices(): what this machine can measure and run on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from puzzle.hardware.nvml import Gpu, gpus

__all__ = ["Device", "devices", "visible_gpus"]

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A CPU, a GPU or a part of one.

    Args:
        kind: "cpu", "gpu" or "mig".
        name: What its maker calls it.
        torch_name: What torch calls it: "cpu", "cuda:0"; None where CUDA cannot see it.
        memory_total: Bytes, None where unknown.
        memory_free: Bytes, None where unknown.
        clocks: MHz now and at most.
        gpu: All that NVML reports.
        notes: What may disturb measurements on it, in words.
    """

    kind: str
    name: str
    torch_name: str | None
    memory_total: int | None
    memory_free: int | None
    clocks: Mapping[str, int | None]
    gpu: Gpu | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        free = "" if self.memory_free is None else f", {self.memory_free / GIB:.1f} GiB free"
        total = "" if self.memory_total is None else f": {self.memory_total / GIB:.1f} GiB{free}"
        where = self.torch_name or "not visible to CUDA"
        power = ""
        if self.gpu is not None and self.gpu.power_limit is not None:
            power = f", {self.gpu.power or 0:.0f} of {self.gpu.power_limit:.0f} W"
        notes = "".join(f"\n    {note}" for note in self.notes)
        return f"{where}  {self.name}{total}{power}{notes}"


def devices() -> tuple[Device, ...]:
    """Lists the CPU and every GPU and MIG instance; it works without an NVIDIA driver too.

    Nothing is allocated on a GPU.

    Returns:
        The CPU first, then the GPUs in physical order.

    Example:
        >>> devices()[0].torch_name
        'cpu'
    """
    all_gpus = gpus()
    setting, order = (os.environ.get(f"CUDA_{n}") for n in ("VISIBLE_DEVICES", "DEVICE_ORDER"))
    visible = visible_gpus(all_gpus, setting)
    return (_cpu(), *(_gpu(gpu, visible, all_gpus, order) for gpu in all_gpus))


def _cpu() -> Device:
    memory = psutil.virtual_memory()
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    clocks = {
        "now": round(frequency.current) if frequency else None,
        "max": round(frequency.max) if frequency and frequency.max else None,
    }
    cores, load = psutil.cpu_count(logical=True) or 1, psutil.getloadavg()[0]
    notes = []
    if load > 0.5 * cores:
        notes.append(f"load average {load:.1f} on {cores} cores in the last minute")
    name = platform.processor() or platform.machine()
    return Device(
        kind="cpu",
        name=f"{name}, {cores} cores, {torch.backends.cpu.get_cpu_capability()}",
        torch_name="cpu",
        memory_total=memory.total,
        memory_free=memory.available,
        clocks=clocks,
        notes=tuple(notes),
    )


def _gpu(gpu: Gpu, visible: Sequence[Gpu], all_gpus: Sequence[Gpu], order: str | None) -> Device:
    notes = [
        f"in use by {process.name} (process {process.pid}"
        + (")" if process.memory is None else f", {process.memory / GIB:.1f} GiB)")
        for process in gpu.processes
    ]
    if gpu.mig_enabled:
        notes.append("divided by MIG: only its instances can compute")
    names = {other.name for other in all_gpus if other.mig is None}
    if len(names) > 1 and order != "PCI_BUS_ID":
        notes.append(
            "different GPUs: CUDA puts the fastest first; set CUDA_DEVICE_ORDER=PCI_BUS_ID for "
            "the order shown here"
        )
    return Device(
        kind="gpu" if gpu.mig is None else "mig",
        name=gpu.name,
        torch_name=f"cuda:{visible.index(gpu)}" if gpu in visible else None,
        memory_total=gpu.memory_total,
        memory_free=gpu.memory_free,
        clocks=gpu.clocks,
        gpu=gpu,
        notes=tuple(notes),
    )


def visible_gpus(all_gpus: Sequence[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """Returns the GPUs that CUDA sees, in its order.

    As CUDA reads `CUDA_VISIBLE_DEVICES`: unset means all; numbers are indices, other entries
    prefixes of UUIDs; the first entry that matches nothing ends the list. Of a GPU divided by MIG
    only instances are visible: the first one, if the variable is unset or gives a number; and an
    instance is never visible beside another device.

    Args:
        all_gpus: All GPUs and instances in physical order.
        setting: The variable's value, None if it is not set.
    """
    whole = [gpu for gpu in all_gpus if gpu.mig is None]
    entries = [str(gpu.index) for gpu in whole]
    if setting is not None:
        entries = [entry.strip() for entry in setting.split(",")]
    chosen: list[Gpu] = []
    for entry in entries:
        if entry.isdigit():
            matches = [gpu for gpu in whole if gpu.index == int(entry)]
        else:
            prefix = entry.lower()
            matches = [g for g in all_gpus if prefix and g.uuid.lower().startswith(prefix)]
        if len(matches) != 1 or matches[0] in chosen:
            break
        chosen.append(matches[0])
    return _apply_mig_rules(all_gpus, chosen)


def _apply_mig_rules(all_gpus: Sequence[Gpu], chosen: Sequence[Gpu]) -> tuple[Gpu, ...]:
    seen: list[Gpu] = []
    for gpu in chosen:
        if gpu.mig_enabled:
            parts = [part for part in all_gpus if part.index == gpu.index and part.mig is not None]
            seen.extend(parts[:1])
        else:
            seen.append(gpu)
    instances = [gpu for gpu in seen if gpu.mig is not None]
    return tuple(instances[:1] if instances else seen)
