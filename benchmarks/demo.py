"""The README's figures: the demo search with the seconds of each stage, then its speed repeated.

    python benchmarks/demo.py --out puzzle-run
    python benchmarks/demo.py --out run-float32 --dtype float32

A finished search is not repeated. Prints one JSON object: the machine, versions, the seconds that
each kind of stage took, the result, and predicted against measured speed over repetitions.
"""

import argparse
import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from common.demo_parent import as_child
from common.machine import print_machine, spread

import puzzle
from puzzle.costs.measured.replies import time_pair
from puzzle.demo import DEMO_DATA, DEMO_EFFORT, demo_text, fetch_demo_model
from puzzle.models.parent import DTYPES

PHASES = ("seconds", "prefill_seconds", "decode_seconds")


def stage_seconds(out: str) -> dict[str, float]:
    """Returns the seconds that the artifacts of each kind took to build.

    A stage that builds another one on its way counts its seconds, too.
    """
    seconds: dict[str, float] = defaultdict(float)
    for file in Path(out).glob("*/*/manifest.json"):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        seconds[manifest["kind"]] += manifest["seconds"]
    return {kind: round(value, 1) for kind, value in sorted(seconds.items())}


def main() -> None:
    """Runs the search and the repetitions, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="puzzle-run")
    parser.add_argument("--constraint", default="throughput >= 1.25x")
    parser.add_argument("--dtype", default="auto", help="one number format for everything")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start, processor = time.perf_counter(), time.process_time()
    result = puzzle.search(
        fetch_demo_model(),
        demo_text(),
        constraints=[options.constraint],
        data=replace(DEMO_DATA, seed=options.seed),
        effort=DEMO_EFFORT,
        precision=options.dtype,
        out=options.out,
        seed=options.seed,
    )
    took = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - processor,
        "stages": stage_seconds(options.out),
    }
    parent, scenario = result.library.parent, result.scenario
    served = DTYPES[scenario.served_dtype]
    models = (as_child(parent, served), result.child().to(served))
    gains: dict[str, list[float]] = {name: [] for name in PHASES}
    for _ in range(options.repeats):
        pair = time_pair(*models, scenario, device="cpu")
        for name, column in gains.items():
            column.append(getattr(pair.parent, name) / getattr(pair.child, name))
    report = {
        "machine": print_machine(dtype=served, seed=options.seed),
        "search": took,
        "gain": {
            name: {
                "predicted": 1 / result.predicted.ratio(name),
                **spread(column),
            }
            for name, column in gains.items()
        },
        "result": result.to_dict(),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
