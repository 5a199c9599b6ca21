"""How much memory a device has, and how much of it is free."""

from __future__ import annotations

import psutil
import torch


def total_memory(device: torch.device | str) -> int:
    """Returns the bytes of memory of a device; of any but a GPU, those of the machine.

    Example:
        >>> total_memory("cpu") > free_memory("cpu") > 0
        True
    """
    place = torch.device(device)
    if place.type == "cuda":
        return int(torch.cuda.get_device_properties(place).total_memory)
    return int(psutil.virtual_memory().total)


def free_memory(device: torch.device | str) -> int:
    """Returns the bytes of a device's memory that nobody uses at the moment; as `total_memory`."""
    place = torch.device(device)
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0])
    return int(psutil.virtual_memory().available)
