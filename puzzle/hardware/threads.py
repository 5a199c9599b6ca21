"""OpenMP's waiting threads, set once before torch loads it.

A thread that waits for the others of a torch operator spins first. On a machine that does other
work as well, the thread waited for is often not running, and the spinning takes the processor
away from it: decoding with two threads beside one busy process took 3.4 times as long as alone,
and 2.1 times with the short spin set here, which costs a tenth on an idle machine
(`benchmarks/threads.py`, figures in `docs/log.md`). On a machine of your own, set
`GOMP_SPINCOUNT=300000` in the environment to have that tenth back.
"""

from __future__ import annotations

import os
import sys

# GNU OpenMP, which torch's wheels carry for Linux, reads this; other runtimes ignore it.
SPIN = {"GOMP_SPINCOUNT": "1000"}


def shorten_spin() -> bool:
    """Makes waiting OpenMP threads spin briefly; returns whether that was still possible.

    Nothing is changed if torch is loaded already, or if the user has chosen a waiting policy
    (`OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` in the environment).
    """
    chosen = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    if "torch" in sys.modules or chosen:
        return False
    os.environ.update(SPIN)
    return True
