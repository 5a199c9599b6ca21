"""CPU-seconds before a search's first stage: importing puzzle, opening a GGUF, opening it again.

Run it with `python benchmarks/opening.py`; it fetches the demo model. Each repetition is a process
of its own with an empty workspace. CPU-seconds are those of the process, children included, so that
other work on the machine counts little. It prints one JSON object with medians and extremes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.machine import print_machine, spread


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def child(source: str, directory: str) -> None:
    """Takes each step once and prints its CPU-seconds as JSON."""
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        start = _cpu_seconds()
        result = step()
        seconds[name] = _cpu_seconds() - start
        return result

    def names() -> Any:
        import puzzle
        from puzzle.models.parent import open_parent
        from puzzle.storage.workspace import Workspace

        assert puzzle.search
        return open_parent, Workspace(directory)

    open_parent, workspace = timed("import puzzle and puzzle.search", names)
    for name in ("open from nothing", "open again"):
        timed(name, lambda: open_parent(source, workspace=workspace, dtype="float32"))
    print(json.dumps(seconds))


def main() -> None:
    """Repeats every step and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--gguf", type=Path, help="the file; by default the demo model")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    from puzzle.demo import fetch_demo_model

    source, runs = str(options.gguf or fetch_demo_model()), []
    report = print_machine(dtype="float32")
    for _ in range(options.repetitions):
        with tempfile.TemporaryDirectory() as directory:
            command = [sys.executable, __file__, "--child", source, directory]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    seconds = {name: spread([run[name] for run in runs]) for name in runs[0]}
    print(json.dumps({"machine": report, "CPU-seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
