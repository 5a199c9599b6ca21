"""How long it takes until the command line refuses what cannot work, from its start to its end.

    python benchmarks/refusals.py
    python benchmarks/refusals.py --json refusals.json

Every line asks for a search of the demo's parent, or for a step after one, with one thing wrong.
Each runs in a process and a directory of its own, so that nothing is there from before. Printed are
its seconds and CPU-seconds, the exit code and the message; on a machine with other work the
CPU-seconds are what can be compared. One that ends otherwise than with 1, 2 or 3 ends the script.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common.machine import print_machine

from puzzle.demo import demo_text, fetch_demo_model

# What is wrong, and the options of a search of the demo's parent; "{model}" is its file.
SEARCH = ("search", "{model}", "--text", "text.txt", "--effort", "fast")
CASES: dict[str, tuple[str, ...]] = {
    "no such effort": (*SEARCH, "--effort", "much"),
    "no such space": (*SEARCH, "--space", "smal"),
    "a malformed constraint": (*SEARCH, "--constraint", "throughput > fast"),
    "no such solver": (*SEARCH, "--solver", "gurobbi"),
    "a seed below 0": (*SEARCH, "--seed", "-1"),
    "no such device": (*SEARCH, "--device", "cuda:9"),
    "no such profile": (*SEARCH, "--hardware", "absent.json"),
    "an engine that is not installed": (*SEARCH, "--hardware", "vllm"),
    "no such text": ("search", "{model}", "--text", "absent.txt"),
    "a text that is no text": ("search", "{model}", "--text", "bytes.txt"),
    "a text of three words": ("search", "{model}", "--text", "short.txt"),
    "more text than there is": (*SEARCH, "--fit-tokens", "1000000000"),
    "windows longer than the model reads": (*SEARCH, "--window", "1000000"),
    "a prompt longer than the model reads": (*SEARCH, "--prompt-tokens", "1000000"),
    "a parent that is cut short": ("search", "half.gguf", "--text", "text.txt"),
    "a parent that is a directory of nothing": ("search", "empty", "--text", "text.txt"),
    "the run directory is a file": (*SEARCH, "--out", "text.txt"),
    "no room for memory": (
        *(*SEARCH, "--hardware", "roofline:h100-sxm"),
        *("--constraint", "memory <= 1 MiB"),
    ),
    "a distillation without a child": ("distill", "empty", "{model}", "--data", "text.txt"),
    "a distillation of no tokens": ("distill", "empty", "{model}", "--data", "a", "--tokens", "0"),
    "an evaluation without a model": ("evaluate", "empty", "--data", "text.txt"),
    "an export of nothing": ("export", "empty", "out", "--engine", "vllm"),
    "a report of nothing": ("report", "empty"),
}


def write_inputs(place: Path, model: Path) -> None:
    """Writes the files that the lines name."""
    (place / "text.txt").write_text("\n\n".join(demo_text()), encoding="utf-8")
    (place / "short.txt").write_text("Three words only.", encoding="utf-8")
    (place / "bytes.txt").write_bytes(b"\xff\xfe\x00\x01" * 1000)
    with model.open("rb") as whole:
        (place / "half.gguf").write_bytes(whole.read(model.stat().st_size // 2))
    (place / "empty").mkdir()


def refusal(line: tuple[str, ...], model: Path) -> dict[str, Any]:
    """Runs one line and returns its seconds, CPU-seconds, exit code and message."""
    with tempfile.TemporaryDirectory() as directory:
        write_inputs(Path(directory), model)
        command = [part.format(model=model) for part in line]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "puzzle.cli", *command],
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (1, 2, 3):
        raise SystemExit(f"{line} ended with {done.returncode}: {done.stderr[-400:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    message = done.stderr.strip().splitlines()[-1].replace(directory, "")
    return {"seconds": seconds, "cpu_seconds": cpu, "code": done.returncode, "message": message}


def main() -> None:
    """Prints a line for each case, and the slowest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", action="append", choices=CASES, help="one line; repeatable")
    given = parser.parse_args()
    record = print_machine()
    model = fetch_demo_model()
    figures = {}
    for name in given.only or CASES:
        each = figures[name] = refusal(CASES[name], model)
        print(
            f"{each['cpu_seconds']:6.1f} CPU-s {each['seconds']:6.1f} s  exit {each['code']}  "
            f"{name}: {each['message'][:100]}",
            flush=True,
        )
    worst = max(figures, key=lambda name: figures[name]["cpu_seconds"])
    print(f"{len(figures)} refused; the slowest: {worst}")
    if given.json:
        given.json.write_text(json.dumps({"machine": record, "refusals": figures}, indent=1))


if __name__ == "__main__":
    main()
