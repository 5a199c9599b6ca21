"""What the costs were measured on; part of the name of every measured artifact."""

from __future__ import annotations

import platform
from typing import Any

import psutil
import torch


def device_record() -> dict[str, Any]:
    """Returns processor, cores, threads and torch version as JSON values."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=True),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
