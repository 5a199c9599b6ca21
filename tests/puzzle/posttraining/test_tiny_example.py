"""The example that is trained from nothing keeps what it promises."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="TRL is in the extra [posttrain], which is not installed")
SCRIPT = Path(__file__).parents[3] / "examples" / "reasoning" / "tiny.py"


@pytest.mark.slow
def test_thinking_pays_and_brevity_costs_no_accuracy(tmp_path):
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
