"""Claims about the devices that are listed. The tests marked gpu ask the real library."""

import json

import pytest

import puzzle
from puzzle.hardware.identity import device_record
from puzzle.hardware.listing import visible_gpus
from puzzle.hardware.nvml import Gpu, gpu_record, gpus
from tests.factories.nvml import GIB


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
    assert first.notes[0] == f"in use by ? (process {2**31 - 7})"
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


@pytest.mark.gpu
def test_the_real_library_agrees_with_torch_about_the_gpu():
    found = next(device for device in puzzle.devices() if device.torch_name == "cuda:0")
    record = device_record("cuda:0")
    assert found.name == record["name"]
    assert found.memory_total == pytest.approx(record["memory"], rel=0.05)
    assert record["driver"]
    assert record["sm_max"] == found.clocks["sm_max"]
