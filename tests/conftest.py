"""One thread in every process of the tests, in this one and in those that tests start.

Two processes run them side by side (`addopts` in pyproject.toml), and threads that wait for each
other make a test many times slower where the machine has other work as well. Set before torch is
imported, because OpenMP reads it then.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
