"""Claims about the peak memory of a whole search."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_peak_memory_of_a_search_and_of_saving_its_child_does_not_grow_with_depth():
    command = [sys.executable, "benchmarks/scale.py", "--layers", "4", "48", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    shallow, deep = found["peaks"]["4"], found["peaks"]["48"]
    most = 1.2 * found["layer"] + 20e6
    # 44 more layers are 57 MB of weights.
    assert 44 * found["layer"] > 2 * most
    for name in ("search", "save"):
        assert deep[name] - shallow[name] <= most, name
