"""An NVML that answers for two GPUs where there is none."""

import itertools
from types import SimpleNamespace

GIB = 2**30


class FakeError(Exception):
    pass


class FakeNvml:
    """Two GPUs, the second divided into two MIG instances."""

    NVMLError = FakeError
    NVML_DEVICE_MIG_ENABLE, NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 1, 2, 0
    NAMES = {"a": "H100", "b": "A100", "b0": "A100 MIG 3g", "b1": "A100 MIG 3g"}  # noqa: RUF012
    UUIDS = {"a": "GPU-aaa1", "b": "GPU-bbb2", "b0": "MIG-ccc3", "b1": "MIG-ddd4"}  # noqa: RUF012

    def __init__(self, *, counter=True, driver=True):
        self.counter, self.driver, self.sessions = counter, driver, 0
        self.energy, self.watts = itertools.count(1000, 2500), itertools.cycle([100_000, 300_000])

    def nvmlInit(self):
        if not self.driver:
            raise FakeError("driver not loaded")
        self.sessions += 1

    def nvmlShutdown(self):
        self.sessions -= 1

    def nvmlSystemGetDriverVersion(self):
        return "580.1"

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return "ab"[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        found = {v: k for k, v in self.UUIDS.items()}
        if uuid not in found:
            raise FakeError("not found")
        return found[uuid]

    def nvmlDeviceGetMigMode(self, handle):
        if handle == "a":
            raise FakeError("not supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):
        if index > 1:
            raise FakeError("not found")
        return f"{handle}{index}"

    def nvmlDeviceGetName(self, handle):
        return self.NAMES[handle].encode()  # older bindings return bytes

    def nvmlDeviceGetUUID(self, handle):
        return self.UUIDS[handle]

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=80 * GIB, free=70 * GIB, used=10 * GIB)

    def nvmlDeviceGetClockInfo(self, handle, clock):
        return {1: 1200, 2: 2600}[clock]

    def nvmlDeviceGetMaxClockInfo(self, handle, clock):
        return {1: 1980, 2: 2619}[clock]

    def nvmlDeviceGetPowerUsage(self, handle):
        return next(self.watts)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return 700_000

    def nvmlDeviceGetTemperature(self, handle, sensor):
        raise FakeError("not supported")

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        if handle == "a":
            return [SimpleNamespace(pid=2**31 - 7, usedGpuMemory=None)]
        return []

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if not self.counter:
            raise FakeError("not supported")
        return next(self.energy)
