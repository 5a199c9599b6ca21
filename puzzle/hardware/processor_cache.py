"""How large the processor's last cache is, out of which timed weights have to be kept."""

from __future__ import annotations

import math
import os
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def last_cache_bytes(cpus: Path = CPUS) -> float:
    """Returns the bytes of the last level of cache of all cores that this process may use.

    Args:
        cpus: Where the system describes its cores.

    Returns:
        The sum over caches, each of which several cores may share; infinity where the system
        does not say.

    Example:
        >>> last_cache_bytes() > 0
        True
    """
    caches: dict[tuple[int, str], int] = {}
    for number in _own_cpus():
        for index in (cpus / f"cpu{number}" / "cache").glob("index*"):
            try:
                level, kind, size, cores = (
                    (index / name).read_text(encoding="ascii").strip()
                    for name in ("level", "type", "size", "shared_cpu_list")
                )
                if kind != "Instruction":
                    caches[int(level), cores] = int(size[:-1]) * UNITS[size[-1]]
            except (OSError, ValueError, KeyError, IndexError):
                continue  # what cannot be read is not known
    last = max((level for level, _ in caches), default=0)
    return sum(size for (level, _), size in caches.items() if level == last) or math.inf


def _own_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))
