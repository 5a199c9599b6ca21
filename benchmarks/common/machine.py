"""What every figure is printed with: the machine, the number format, the versions, the spread."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("puzzle-nas", "torch", "transformers")
# Those that decide how fast matrix products of each number format are.
INSTRUCTION_SETS = (
    *("avx2", "fma", "f16c", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme"),
)


def machine(
    *, dtype: object = None, seed: int | None = None, packages: Sequence[str] = PACKAGES
) -> dict[str, Any]:
    """Returns where and with what figures are made, as JSON values.

    Args:
        dtype: The number format in which the script computes, where there is one.
        seed: Where anything is random.
        packages: Distributions whose versions count. torch is imported only if it is among them.
    """
    record: dict[str, Any] = {"cpu": _cpu_name(), "cores": _free_cores()}
    record["instruction_sets"] = [name for name in INSTRUCTION_SETS if name in _flags()]
    if "torch" in packages:
        import torch

        record["threads"] = torch.get_num_threads()
    record |= {"dtype": str(dtype).removeprefix("torch.")} if dtype is not None else {}
    record |= {"seed": seed} if seed is not None else {}
    record["load"] = round(os.getloadavg()[0], 2)
    record["system"] = platform.platform()
    versions = {name: _version(name) for name in packages}
    record["versions"] = {"python": platform.python_version(), **versions}
    return record


def machine_line(record: dict[str, Any]) -> str:
    """Returns a record of `machine` on one line."""
    parts = [record["cpu"], f"{record['cores']} cores"]
    parts += [f"{record['threads']} threads"] if "threads" in record else []
    parts += [" ".join(record["instruction_sets"]) or "instruction sets unknown"]
    parts += [record["dtype"]] if "dtype" in record else []
    parts += [f"seed {record['seed']}"] if "seed" in record else []
    parts += [f"{name} {version}" for name, version in record["versions"].items()]
    return ", ".join([*parts, f"load average {record['load']}"])


def print_machine(
    *, dtype: object = None, seed: int | None = None, packages: Sequence[str] = PACKAGES
) -> dict[str, Any]:
    """Prints the line on stderr, beside figures that may be JSON on stdout; returns the record.

    Args:
        dtype: As for `machine`.
        seed: As for `machine`.
        packages: As for `machine`.
    """
    record = machine(dtype=dtype, seed=seed, packages=packages)
    print(machine_line(record), file=sys.stderr, flush=True)
    return record


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, the least and the most of repeated measurements."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in first)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _cpu_name() -> str:
    return _cpu_info().get("model name") or platform.processor() or platform.machine()


def _flags() -> set[str]:
    # x86 calls them flags, ARM features.
    info = _cpu_info()
    return set((info.get("flags") or info.get("Features") or "").split())


def _free_cores() -> int:
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
