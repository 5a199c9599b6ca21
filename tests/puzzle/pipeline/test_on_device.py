"""Claims about where tensors are: every stage of a search runs on the parent's device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_every_stage_runs_on_the_parents_device_and_finds_the_same(tmp_path):
    found = {}
    for device in ("cpu", "pretend"):
        command = [sys.executable, "-m", "tests.factories.device_case", tmp_path / device, device]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found[device] = json.loads(done.stdout.splitlines()[-1])
    for name, values in found["cpu"].items():
        assert found["pretend"][name] == pytest.approx(values, rel=1e-3, abs=1e-5), name
