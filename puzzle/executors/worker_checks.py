"""What a worker checks before it builds: versions, and that it shares directories with the run."""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from puzzle.errors import WorkspaceError
from puzzle.storage.versions import versions

# Seconds until a directory that another machine has made is given up.
ARRIVAL = 10.0


def device_kind(device: torch.device | str) -> str:
    """Returns the kind of a device: its name, or the processor with what it computes with."""
    if torch.device(device).type == "cuda":
        return str(torch.cuda.get_device_properties(device).name)
    processor = platform.processor() or platform.machine()
    return f"{processor} {torch.backends.cpu.get_cpu_capability()}"


def require_versions(wanted: Iterable[tuple[str, str]]) -> None:
    """Raises WorkspaceError if results made here would be those of other versions.

    Args:
        wanted: Package and version, as the process that submits jobs has them.
    """
    here = versions()
    # Patches of Python change no results.
    others = [
        f"{name} {here.get(name)} instead of {version}"
        for name, version in wanted
        if name != "python" and here.get(name) != version
    ]
    if others:
        raise WorkspaceError(
            f"the worker on {socket.gethostname()} has {', '.join(others)}; install the same "
            "versions on all machines of a run"
        )


def require_shared(beacon: str, *, root: str, parent: str) -> None:
    """Raises WorkspaceError if the run that submitted a job would not see what is built here.

    Args:
        beacon: A directory inside the run directory, made for this.
        root: The run directory.
        parent: The parent's directory.
    """
    here = f"the worker on {socket.gethostname()}"
    if not appears(Path(beacon).is_dir, ARRIVAL):
        raise WorkspaceError(
            f"{here} does not see the run directory {root} of the process that submitted its job; "
            "put it on a file system that all machines share under one path (out=, --out)"
        )
    if not appears(Path(parent).is_dir, ARRIVAL):
        raise WorkspaceError(
            f"{here} sees the run directory and not the parent at {parent}; put it on the file "
            "system that all machines share, or copy it to that path on each"
        )


def appears(there: Callable[[], bool], seconds: float) -> bool:
    """Returns whether something is there, now or soon: other machines' writes arrive late."""
    end = time.monotonic() + seconds
    while not there():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
