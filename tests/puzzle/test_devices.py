"""Claims about devices and NVML.

There is no GPU where these run: `FakeNvml` answers with recorded-looking values, so that what is
tested is only how answers are read. The tests marked gpu ask the real library.
"""

import contextlib
import itertools
import json
from types import SimpleNamespace

import pytest
import torch

import puzzle
from puzzle.hardware import nvml
from puzzle.hardware.identity import device_record
from puzzle.hardware.listing import visible_gpus
from puzzle.hardware.nvml import EnergyMeter, Gpu, gpu_record, gpus, integrate_power, mean_power

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


@pytest.fixture
def fake(monkeypatch):
    def install(**options):
        module = FakeNvml(**options)
        monkeypatch.setattr(nvml, "pynvml", module)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
        return module

    return install


def test_gpus_and_mig_instances_are_read_and_what_is_not_supported_is_none(fake):
    module = fake()
    first, second, *parts = gpus()
    assert (first.name, first.uuid, first.mig, first.mig_enabled) == (
        "H100",
        "GPU-aaa1",
        None,
        False,
    )
    assert (first.memory_total, first.memory_free) == (80 * GIB, 70 * GIB)
    assert first.clocks == {"sm": 1200, "memory": 2600, "sm_max": 1980, "memory_max": 2619}
    assert (first.power, first.power_limit, first.temperature) == (100.0, 700.0, None)
    assert [(p.name, p.memory) for p in first.processes] == [("?", None)]
    assert second.mig_enabled
    assert [(p.index, p.mig, p.uuid) for p in parts] == [(1, 0, "MIG-ccc3"), (1, 1, "MIG-ddd4")]
    assert module.sessions == 0  # every session was closed


def test_devices_say_what_is_in_the_way_and_what_torch_calls_them(fake):
    fake()
    cpu, first, second, *parts = puzzle.devices()
    assert (cpu.kind, cpu.torch_name) == ("cpu", "cpu")
    assert cpu.memory_total >= cpu.memory_free > 0
    assert first.notes[0] == f"in the way: ? (process {2**31 - 7})"
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in first.notes[1]
    assert (second.torch_name, [part.kind for part in parts]) == (None, ["mig", "mig"])
    assert "divided by MIG" in second.notes[0]
    assert "80.0 GiB, 70.0 GiB free" in str(first)
    json.dumps([device.to_dict() for device in puzzle.devices()])


def test_without_a_driver_there_is_the_cpu(fake):
    fake(driver=False)
    assert [device.kind for device in puzzle.devices()] == ["cpu"]
    assert gpu_record("GPU-aaa1") == {"driver": None}


def test_this_machine_is_listed_with_its_real_library():
    found = puzzle.devices()
    assert found[0].kind == "cpu"
    assert all(device.gpu is not None for device in found[1:])


def gpu(index, uuid, mig=None, divided=False):
    return Gpu(index=index, name="x", uuid=uuid, mig=mig, mig_enabled=divided, clocks={})


WHOLE = [gpu(0, "GPU-aa1"), gpu(1, "GPU-ab2"), gpu(2, "GPU-b3")]
DIVIDED = [gpu(0, "GPU-a", divided=True), gpu(0, "MIG-1", 0), gpu(0, "MIG-2", 1), gpu(1, "GPU-b")]


@pytest.mark.parametrize(
    ("found", "setting", "uuids"),
    [
        (WHOLE, None, ["GPU-aa1", "GPU-ab2", "GPU-b3"]),
        (WHOLE, "", []),
        (WHOLE, "2,0", ["GPU-b3", "GPU-aa1"]),
        (WHOLE, "1,7,0", ["GPU-ab2"]),
        (WHOLE, "-1", []),
        (WHOLE, "GPU-b, 0", ["GPU-b3", "GPU-aa1"]),
        (WHOLE, "GPU-a", []),  # two begin like this
        (DIVIDED, None, ["MIG-1"]),
        (DIVIDED, "MIG-2", ["MIG-2"]),
        (DIVIDED, "MIG-2,1", ["MIG-2"]),
        (DIVIDED, "1", ["GPU-b"]),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(found, setting, uuids):
    assert [g.uuid for g in visible_gpus(found, setting)] == uuids


def test_energy_is_the_difference_of_the_counter(fake):
    module = fake()
    with EnergyMeter("GPU-aaa1") as meter:
        pass
    assert (meter.joules, meter.method) == (2.5, "counter")
    assert module.sessions == 0


def test_energy_is_discarded_when_the_counter_went_backwards(fake):
    fake().energy = itertools.count(5000, -100)
    with EnergyMeter("GPU-aaa1") as meter:
        pass
    assert meter.joules is None
    assert "backwards" in meter.method


def test_without_a_counter_power_is_integrated(fake):
    module = fake(counter=False)
    with EnergyMeter("GPU-aaa1", interval=0.005) as meter:
        while len(meter._samples) < 5:
            pass
    assert meter.joules == integrate_power(meter._samples)
    assert (
        100 * (span := meter._samples[-1][0] - meter._samples[0][0]) <= meter.joules <= 300 * span
    )
    assert meter.method.startswith("power, ")
    assert module.sessions == 0


def test_power_of_a_straight_line_integrates_to_its_closed_form():
    times = [0.0, 0.1, 0.5, 2.0]
    assert integrate_power([(t, 3 + 2 * t) for t in times]) == pytest.approx(3 * 2 + 2**2)


@pytest.mark.parametrize(
    ("uuid", "options", "reason"),
    [
        (None, {}, "no NVIDIA GPU"),
        ("GPU-none", {}, "NVML has no GPU GPU-none"),
        ("GPU-aaa1", {"driver": False}, "driver not loaded"),
    ],
)
def test_where_energy_is_absent_the_reason_is_given(fake, uuid, options, reason):
    fake(**options)
    with EnergyMeter(uuid) as meter:
        pass
    assert meter.joules is None
    assert reason in meter.method


def test_an_exception_in_the_measured_block_passes_and_ends_the_session(fake):
    module = fake(counter=False)
    with contextlib.suppress(KeyError), EnergyMeter("GPU-aaa1"):
        raise KeyError
    assert module.sessions == 0


def test_mean_power_is_energy_over_time_and_absent_without_a_gpu(fake, monkeypatch):
    fake()
    runs, clock = [], itertools.count()
    # A clock that ticks a second whenever it is read: five seconds pass, and the job runs in four.
    monkeypatch.setattr(nvml, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    watts = mean_power(lambda: runs.append(1), "GPU-aaa1", seconds=5)
    # The stand-in's counter moves on by 2.5 J from one reading to the next.
    assert watts == 2.5 / 5
    assert len(runs) == 4
    assert mean_power(lambda: runs.append(0), None) is None
    assert 0 not in runs


@pytest.mark.gpu
def test_the_real_library_agrees_with_torch_about_the_gpu():
    found = next(device for device in puzzle.devices() if device.torch_name == "cuda:0")
    record = device_record("cuda:0")
    assert found.name == record["name"]
    assert found.memory_total == pytest.approx(record["memory"], rel=0.05)
    assert record["driver"]
    assert record["sm_max"] == found.clocks["sm_max"]


@pytest.mark.gpu
def test_the_real_counter_gives_a_plausible_power():
    found = next(device for device in puzzle.devices() if device.torch_name == "cuda:0")
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with EnergyMeter(found.gpu.uuid) as meter:
        start.record()
        for _ in range(2000):
            x @ x
        end.record()
        torch.cuda.synchronize()
    watts = meter.joules / (start.elapsed_time(end) / 1000)
    assert 20 < watts < 1.5 * found.gpu.power_limit
