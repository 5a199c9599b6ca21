"""Fixtures of the tests about hardware."""

import pytest

from puzzle.hardware import nvml
from tests.factories.nvml import FakeNvml


@pytest.fixture
def fake(monkeypatch):
    def install(**options):
        module = FakeNvml(**options)
        monkeypatch.setattr(nvml, "pynvml", module)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
        return module

    return install
