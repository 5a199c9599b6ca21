"""The device that costs are measured on, which names every measured artifact and profile."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import psutil
import torch

from puzzle.errors import ParentError
from puzzle.hardware.nvml import gpu_record

__all__ = ["device_identity", "device_record", "require_device", "software_versions"]

PACKAGES = ("puzzle-nas", "torch", "transformers", "numpy")


def device_identity(device: str) -> dict[str, Any]:
    """Returns the parts of a device's record that stay the same while it is used.

    Args:
        device: As for `device_record`.
    """
    return {k: v for k, v in device_record(device).items() if k != "clocks"}


def device_record(device: str) -> dict[str, Any]:
    """Returns what identifies a device, as JSON values.

    Args:
        device: "cpu", "cuda" or "cuda:1".

    Returns:
        For a CPU: processor, cores, threads and torch version. For a GPU: name, memory, compute
        capability, power limit, clocks and driver as NVML reports them, CUDA and torch versions.

    Raises:
        RuntimeError: There is no such CUDA device.
    """
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {
            "name": properties.name,
            "memory": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            **gpu_record(str(getattr(properties, "uuid", ""))),
            "cuda": torch.version.cuda,
            "torch": torch.__version__,
        }
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=True),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def software_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that costs depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def require_device(device: torch.device | str) -> None:
    """Raises ParentError, saying what to do, if torch cannot use a device."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ParentError(
            f"torch {torch.__version__} cannot use {str(device)!r} ({reason}); 'puzzle devices' "
            "lists what is there: choose one of those or 'cpu', or install a build of torch for it"
        ) from error
