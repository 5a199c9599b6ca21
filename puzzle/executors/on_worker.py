"""What a worker is given beside its call: a device, and a number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")
# The device of this process, if it is a worker that was given one.
_DEVICE: list[str] = []


def worker_device() -> str | None:
    """Returns the device that this process was given as a worker; None if it was given none."""
    return _DEVICE[0] if _DEVICE else None


def become_worker(device: str, threads: int) -> None:
    """Makes this process a worker.

    Args:
        device: Its device; empty for that of the run.
        threads: Threads of torch: results are the same bytes only from as many.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    _DEVICE[:] = [device] if device else []


def call_on_worker(device: str, threads: int, fn: Callable[..., T], *args: Any) -> T:
    """Runs a call in a process that a cluster has started, as a worker."""
    become_worker(device, threads)
    return fn(*args)
