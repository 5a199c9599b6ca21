"""What holds in every process of the tests, in this one and in those that tests start.

One thread: two processes run the tests side by side (`addopts` in pyproject.toml), and threads that
wait for each other make a test many times slower where the machine has other work as well. Set
before torch is imported, because OpenMP reads it then.

Compiled modules are kept, also where the environment says otherwise: without them each process of
pytest compiles all tests again, 10 seconds each, and each other process what it imports of puzzle.
"""

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
