"""The number format in which a device multiplies fast, measured on it in a fraction of a second."""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from puzzle.hardware.identity import device_identity, require_device
from puzzle.hardware.precision import FormatChoice, choose_format
from puzzle.storage.workspace import Workspace

__all__ = ["computing_format", "fast_format"]

# Tokens of a product like a prompt's and of one like a decode step's, and the width of both.
CPU_SIZES, GPU_SIZES = ((256, 8), 1024), ((2048, 8), 4096)
REPEATS = 5
# Part of the artifact's name: raise it when what is measured changes.
FORMAT = 1
# They decide which kernels run on a CPU.
INSTRUCTION_SETS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


def fast_format(
    device: torch.device | str = "cpu", *, workspace: Workspace | None = None
) -> FormatChoice:
    """Returns the number format to compute in on a device, measured once per process.

    float32 and bfloat16 are compared, and on a GPU float16 as well.

    Args:
        device: "cpu", "cuda" or "cuda:1".
        workspace: Where the choice is stored, so that a resumed run makes the same one.

    Raises:
        ParentError: torch cannot use the device.
    """
    require_device(device)
    name = _name(device)
    if workspace is None:
        return _measured_choice(name)

    def build(directory: Path) -> None:
        choice = _measured_choice(name)
        values = {"name": choice.name, "reason": choice.reason}
        (directory / "choice.json").write_text(json.dumps(values), encoding="utf-8")

    kept = ("name", "processor", "capability", "cuda", "torch")
    identity = {key: value for key, value in device_identity(name).items() if key in kept}
    spec = {
        "format": FORMAT,
        "device": identity,
        "instruction sets": {name: os.environ.get(name) for name in INSTRUCTION_SETS},
    }
    return FormatChoice(**workspace.get_or_build("format", spec, build).load_json("choice.json"))


def computing_format(stored: torch.dtype, device: torch.device | str = "cpu") -> torch.dtype:
    """Returns the number format to compute in: float32 if clearly faster than the stored one.

    Args:
        stored: Number format of the weights.
        device: Where they are multiplied.
    """
    own = str(stored).removeprefix("torch.")
    if own not in ("bfloat16", "float16"):
        return stored
    name = _name(device)
    seconds = {each: _product_seconds(name, each) for each in ("float32", own)}
    return torch.float32 if choose_format(seconds, name).name == "float32" else stored


def _name(device: torch.device | str) -> str:
    named = torch.device(device)
    if named.type == "cuda" and named.index is None:
        return f"cuda:{torch.cuda.current_device()}"
    return str(named)


@functools.cache
def _measured_choice(device: str) -> FormatChoice:
    gpu = torch.device(device).type == "cuda"
    names = ("float32", "bfloat16", "float16") if gpu else ("float32", "bfloat16")
    seconds = {name: _product_seconds(device, name) for name in names}
    return choose_format(seconds, _device_label(device))


def _device_label(device: str) -> str:
    if torch.device(device).type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if torch.device(device).type != "cpu":
        return device
    instructions = os.environ.get(INSTRUCTION_SETS[0]) or torch.backends.cpu.get_cpu_capability()
    return f"this CPU ({instructions})"


@functools.cache
@torch.no_grad()
def _product_seconds(device: str, number_format: str) -> float:
    """Returns the geometric mean of the seconds of a wide and a thin product."""
    dtype = getattr(torch, number_format)
    rows, width = CPU_SIZES if torch.device(device).type == "cpu" else GPU_SIZES
    weight = torch.ones(width, width, device=device, dtype=dtype)
    logs = []
    for tokens in rows:
        # Ones, not random numbers: a search must not depend on whether this was measured.
        x = torch.ones(tokens, width, device=device, dtype=dtype)
        logs.append(math.log(_seconds(functools.partial(nn.functional.linear, x, weight))))
    return math.exp(sum(logs) / len(logs))


def _seconds(product: Callable[[], torch.Tensor]) -> float:
    """Returns the shortest of a few runs, since other work on the machine only adds to them."""

    def once() -> float:
        start = time.perf_counter()
        float(product()[0, 0])  # read, which waits until a GPU is done
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(REPEATS))
