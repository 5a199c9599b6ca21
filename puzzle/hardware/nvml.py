"""NVIDIA's management library: what GPUs there are, who uses them, and the energy they use.

Written to the interface that `nvidia-ml-py` documents. Everything is optional: what a driver or
a GPU does not support is None, and without a driver there are no GPUs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import psutil
import pynvml

__all__ = ["EnergyMeter", "Gpu", "GpuProcess", "gpu_record", "gpus", "integrate_power"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that uses a GPU.

    Args:
        pid: Its process id, as the driver numbers it.
        name: Its name, "?" where it runs in another container.
        memory: Bytes of GPU memory, None where the driver does not report it.
    """

    pid: int
    name: str
    memory: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, or one MIG instance of a GPU, as NVML sees it.

    Args:
        index: Physical index, that of the whole GPU.
        name: Product name.
        uuid: "GPU-..." or "MIG-...".
        mig: Index of the MIG instance, None for a whole GPU.
        mig_enabled: Whether the GPU is divided; only its instances can compute then.
        memory_total: Bytes.
        memory_free: Bytes.
        clocks: Current and highest MHz: sm, memory, sm_max, memory_max.
        power: Watts now.
        power_limit: Enforced limit in watts.
        temperature: Degrees Celsius.
        processes: Those that compute on it, except this one.
    """

    index: int
    name: str
    uuid: str
    mig: int | None = None
    mig_enabled: bool = False
    memory_total: int | None = None
    memory_free: int | None = None
    clocks: dict[str, int | None]
    power: float | None = None
    power_limit: float | None = None
    temperature: int | None = None
    processes: tuple[GpuProcess, ...] = ()


@contextmanager
def _session() -> Iterator[bool]:
    """Yields whether NVML works here."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        pynvml.nvmlShutdown()


def _query(call: Callable[..., _T], *arguments: Any) -> _T | None:
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def driver_version() -> str | None:
    """Returns the version of NVIDIA's driver, None without one."""
    with _session() as works:
        return _text(pynvml.nvmlSystemGetDriverVersion()) if works else None


def gpus() -> tuple[Gpu, ...]:
    """Returns every GPU and MIG instance, in physical order; none without a driver."""
    with _session() as works:
        if not works:
            return ()
        listed: list[Gpu] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = _query(pynvml.nvmlDeviceGetHandleByIndex, index)
            if handle is None:
                continue
            modes = _query(pynvml.nvmlDeviceGetMigMode, handle)
            divided = bool(modes and modes[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
            listed.append(_describe(handle, handle, index, None, divided))
            slots = _query(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) if divided else 0
            for slot in range(slots or 0):
                part = _query(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot)
                if part is not None:
                    listed.append(_describe(part, handle, index, slot, False))
        return tuple(listed)


def _describe(handle: Any, whole: Any, index: int, mig: int | None, divided: bool) -> Gpu:
    """Memory and processes are those of the part, clocks and power those of the whole GPU."""
    memory = _query(pynvml.nvmlDeviceGetMemoryInfo, handle)
    milliwatts = _query(pynvml.nvmlDeviceGetPowerUsage, whole)
    limit = _query(pynvml.nvmlDeviceGetEnforcedPowerLimit, whole)
    clocks = {
        "sm": _query(pynvml.nvmlDeviceGetClockInfo, whole, pynvml.NVML_CLOCK_SM),
        "memory": _query(pynvml.nvmlDeviceGetClockInfo, whole, pynvml.NVML_CLOCK_MEM),
        "sm_max": _query(pynvml.nvmlDeviceGetMaxClockInfo, whole, pynvml.NVML_CLOCK_SM),
        "memory_max": _query(pynvml.nvmlDeviceGetMaxClockInfo, whole, pynvml.NVML_CLOCK_MEM),
    }
    return Gpu(
        index=index,
        name=_text(_query(pynvml.nvmlDeviceGetName, handle)),
        uuid=_text(_query(pynvml.nvmlDeviceGetUUID, handle)),
        mig=mig,
        mig_enabled=divided,
        memory_total=None if memory is None else int(memory.total),
        memory_free=None if memory is None else int(memory.free),
        clocks=clocks,
        power=None if milliwatts is None else milliwatts / 1000,
        power_limit=None if limit is None else limit / 1000,
        temperature=_query(pynvml.nvmlDeviceGetTemperature, whole, pynvml.NVML_TEMPERATURE_GPU),
        processes=_processes(handle),
    )


def _processes(handle: Any) -> tuple[GpuProcess, ...]:
    own, others = psutil.Process().pid, []
    for process in _query(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or ():
        if process.pid == own:
            continue
        try:
            name = psutil.Process(process.pid).name()
        except psutil.Error:
            name = "?"
        memory = process.usedGpuMemory
        others.append(GpuProcess(pid=process.pid, name=name, memory=memory))
    return tuple(others)


def gpu_record(uuid: str) -> dict[str, Any]:
    """Returns driver, power limit and highest clocks of the GPU with the UUID that CUDA reports.

    Args:
        uuid: With or without "GPU-" before it; without a match only the driver is returned.
    """
    record: dict[str, Any] = {"driver": driver_version()}
    for gpu in gpus():
        if uuid and gpu.uuid.removeprefix("GPU-") == uuid.removeprefix("GPU-"):
            highest = {name: gpu.clocks[name] for name in ("sm_max", "memory_max")}
            record.update({"power_limit": gpu.power_limit, **highest})
    return record


def integrate_power(samples: Sequence[tuple[float, float]]) -> float:
    """Returns joules from (seconds, watts) samples, by the trapezoidal rule.

    Example:
        >>> integrate_power([(0.0, 100.0), (1.0, 300.0), (3.0, 300.0)])
        800.0
    """
    return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(samples))


class EnergyMeter:
    """Joules that a whole GPU uses while a `with` block runs.

    The GPU's own counter is read before and after; where it has none (before Volta), the power is
    sampled and integrated. Neither exists on a CPU: `joules` is None and `method` says why. All
    work of the GPU counts, that for other processes too.

    Args:
        uuid: The GPU's UUID as NVML reports it, or None for a CPU.
        interval: Seconds between samples, where power is sampled.

    Example:
        >>> with EnergyMeter(None) as meter:
        ...     pass
        >>> meter.joules, meter.method
        (None, 'absent: no NVIDIA GPU')
    """

    def __init__(self, uuid: str | None, *, interval: float = 0.02) -> None:
        self.uuid, self.interval = uuid, interval
        self.joules: float | None = None
        self.method = "absent: no NVIDIA GPU"
        self._handle: Any = None
        self._start: int | None = None
        self._samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> EnergyMeter:
        if self.uuid is None:
            return self
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self.method = f"absent: {error}"
            return self
        self._handle = _query(pynvml.nvmlDeviceGetHandleByUUID, self.uuid)
        if self._handle is None:
            self.method = f"absent: NVML has no GPU {self.uuid}"
            return self
        self._start = _query(pynvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)
        if self._start is None:
            self._sampler = threading.Thread(target=self._sample, daemon=True)
            self._sampler.start()
        return self

    def _read_power(self) -> None:
        milliwatts = _query(pynvml.nvmlDeviceGetPowerUsage, self._handle)
        if milliwatts is not None:
            self._samples.append((time.monotonic(), milliwatts / 1000))

    def _sample(self) -> None:
        self._read_power()
        while not self._stop.wait(self.interval):
            self._read_power()
        self._read_power()

    def __exit__(self, *_: object) -> None:
        if self._handle is None:
            return
        if self._sampler is not None:
            self._stop.set()
            self._sampler.join()
            if len(self._samples) > 1:
                self.joules = integrate_power(self._samples)
                self.method = f"power, {len(self._samples)} samples"
            else:
                self.method = "absent: the GPU reports neither energy nor power"
        else:
            end = _query(pynvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)
            # The counter restarts from zero when the driver is reloaded.
            if end is not None and self._start is not None and end >= self._start:
                self.joules, self.method = (end - self._start) / 1000, "counter"
            else:
                self.method = "absent: the energy counter went backwards"
        pynvml.nvmlShutdown()


def mean_power(run: Callable[[], Any], uuid: str | None, *, seconds: float = 1.0) -> float | None:
    """Returns the watts that a GPU draws while a function is called repeatedly.

    Args:
        run: The function; it has to wait for the GPU.
        uuid: As for `EnergyMeter`.
        seconds: For how long at least: counters are read some ten times a second.

    Returns:
        The mean, or None where the GPU does not report it.
    """
    if uuid is None:
        return None
    with EnergyMeter(uuid) as meter:
        start = time.monotonic()
        while (spent := time.monotonic() - start) < seconds:
            run()
    return None if meter.joules is None else meter.joules / spent
