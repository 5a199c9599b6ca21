"""How many threads torch uses, and how they wait for each other.

Their number is limited to the cores that this process may use, which in a container are often
fewer than the machine has: any more threads take turns and wait for each other.

How they wait is set once, before torch loads OpenMP. A thread that waits for the others of a torch
operator spins first. On a machine that does other work as well, the thread waited for is often not
running, and the spinning takes the processor away from it: decoding with two threads beside one
busy process took 3.4 times as long as alone, and 2.1 times with the short spin set here, which
costs a tenth on an idle machine (`benchmarks/threads.py`, figures in `docs/log.md`). On a machine
that does nothing else, set `GOMP_SPINCOUNT=300000` in the environment to get that tenth back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# GNU OpenMP, which torch's wheels carry for Linux, reads this; other runtimes ignore it.
SPIN = {"GOMP_SPINCOUNT": "1000"}
CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


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


def limit_threads(*, to_free: bool = False) -> int:
    """Limits torch's threads to the cores that this process may use; returns their number.

    Nothing is changed if the user has chosen: by OMP_NUM_THREADS or MKL_NUM_THREADS in the
    environment, or by `torch.set_num_threads`.

    Args:
        to_free: Limit them to the cores that other processes leave free as well.
    """
    import torch

    now = torch.get_num_threads()
    if any(os.environ.get(name) for name in CHOSEN_BY) or now not in _defaults():
        return now
    most = free_cores() if to_free else given_cores()
    if most < now:
        torch.set_num_threads(most)
    return min(most, now)


def _defaults() -> set[int | None]:
    """Returns the numbers of threads that torch may have if nobody chose one."""
    import psutil

    return {os.cpu_count(), psutil.cpu_count(logical=False), _allowed_cores()}


def given_cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Returns the cores that this process may use: by its affinity and by its container's quota.

    A quota is rounded down, since a thread that waits for another one uses it up.

    Args:
        cgroups: Where the control groups are mounted, version 1 or 2.
        own: The file that says which of them this process is in.
    """
    quotas = _quotas(cgroups, own)
    return max(1, int(min([float(_allowed_cores()), *quotas])))


def free_cores(seconds: float = 0.3) -> int:
    """Returns how many of the cores given to this process are idle, at least one.

    Args:
        seconds: For how long the machine is watched.
    """
    import psutil

    busy = psutil.cpu_percent(interval=seconds) / 100 * (os.cpu_count() or 1)
    return max(1, min(given_cores(), round((os.cpu_count() or 1) - busy)))


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Yields the quotas, in cores, of this process's control group and of those above it."""
    for line in _read(own).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            for folder in _folders(cgroups, path):
                quota, _, period = _read(folder / "cpu.max").partition(" ")
                yield from _cores(quota, period)
        elif "cpu" in controllers.split(","):
            for mount in {controllers, "cpu"}:
                for folder in _folders(cgroups / mount, path):
                    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                    yield from _cores(*(_read(folder / name) for name in names))


def _folders(mount: Path, path: str) -> Iterator[Path]:
    parts = [part for part in path.split("/") if part]
    if ".." in parts:  # outside the view of this container
        parts = []
    for depth in range(len(parts) + 1):
        yield mount.joinpath(*parts[:depth])


def _cores(quota: str, period: str) -> Iterator[float]:
    # "max" and -1 stand for no limit.
    if quota.strip().isdigit() and period.strip().isdigit() and int(period) > 0:
        yield int(quota) / int(period)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
