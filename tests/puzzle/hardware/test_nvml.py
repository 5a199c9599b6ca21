"""Claims about devices and NVML.

There is no GPU where these run: `FakeNvml` answers with recorded-looking values, so that what is
tested is only how answers are read. The tests marked gpu ask the real library.
"""

import contextlib
import itertools
from types import SimpleNamespace

import pytest
import torch

import puzzle
from puzzle.hardware import nvml
from puzzle.hardware.nvml import EnergyMeter, integrate_power, mean_power


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
