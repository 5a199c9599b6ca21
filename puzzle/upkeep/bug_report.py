"""environment(): what a report of a bug needs to say of the machine."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

import psutil

from puzzle.hardware.listing import devices

PACKAGES = (
    *("puzzle-nas", "torch", "transformers", "accelerate", "safetensors", "datasets", "numpy"),
    *("scipy", "pulp", "highspy", "matplotlib", "huggingface-hub"),
)
OPTIONAL = ("gguf", "xllamacpp", "vllm", "mlx-lm", "lm-eval", "peft", "trl", "trackio", "wandb")
# What changes results or speed; the values of these hold no secrets.
VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE"),
    *("TRANSFORMERS_OFFLINE", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
)


def environment() -> dict[str, Any]:
    """Returns versions, machine, devices and variables as JSON values, without names or paths."""
    return {
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "memory": psutil.virtual_memory().total,
        "virtual environment": sys.prefix != sys.base_prefix,
        "packages": {name: _version(name) or "not installed" for name in PACKAGES},
        "optional": {name: version for name in OPTIONAL if (version := _version(name))},
        "devices": [str(device) for device in devices()],
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
