"""Why puzzle shortens OpenMP's spin: decode and prefill seconds by spin count and other load.

Run it with `python benchmarks/threads.py`; it needs the demo model. Each setting runs in a process
of its own, alone and beside busy processes. It prints one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys

from common.machine import print_machine

# 300,000 is what GNU OpenMP does when nothing is said.
SPINS = {str(count): {"GOMP_SPINCOUNT": str(count)} for count in (300_000, 20_000, 1000)}
SPINS["passive"] = {"OMP_WAIT_POLICY": "PASSIVE"}


def child() -> None:
    """Times the demo model and prints medians as JSON."""
    import tempfile

    from common.demo_parent import as_child, open_demo_parent

    import puzzle
    from puzzle.costs.measured.replies import time_pair

    with tempfile.TemporaryDirectory() as directory:
        model = as_child(open_demo_parent(directory))
    scenario = puzzle.Scenario(batch=8, prompt_tokens=128, generated_tokens=32)
    pair = time_pair(model, model, scenario, device="cpu", most=3)
    print(json.dumps(pair.parent.to_dict()))


def main() -> None:
    """Runs every spin setting alone and beside other load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child()
        return
    machine = print_machine()
    report: dict[str, dict[str, float]] = {}
    for load in options.loads:
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
        try:
            for name, settings in SPINS.items():
                environment = {**os.environ, **settings}
                command = [sys.executable, __file__, "--child"]
                done = subprocess.run(
                    command, env=environment, stdout=subprocess.PIPE, check=True, text=True
                )
                seconds = json.loads(done.stdout)
                report[f"spin {name}, {load} busy processes"] = {
                    key: round(seconds[key], 3) for key in ("prefill_seconds", "decode_seconds")
                }
        finally:
            for process in busy:
                process.kill()
    print(json.dumps({"machine": machine, "seconds": report}, indent=1))


if __name__ == "__main__":
    main()
