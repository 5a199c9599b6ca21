"""The README's figures: the demo search, then predicted against measured speed, several times.

Run it with `python benchmarks/demo.py --out puzzle-run`; a finished search is not repeated. It
prints one JSON object with the device, versions, the result and the spread over repetitions.
"""

import argparse
import json
import statistics
from dataclasses import replace

import transformers

import puzzle
from puzzle.costs.measured.replies import speed
from puzzle.demo import DEMO_DATA, DEMO_EFFORT, demo_text, fetch_demo_model
from puzzle.hardware.identity import device_record
from puzzle.models.assembling import assemble
from search_space import Layout


def main() -> None:
    """Runs the search and the repetitions, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="puzzle-run")
    parser.add_argument("--constraint", default="throughput >= 1.25x")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = puzzle.search(
        fetch_demo_model(),
        demo_text(),
        constraints=[options.constraint],
        data=replace(DEMO_DATA, seed=options.seed),
        effort=DEMO_EFFORT,
        out=options.out,
        seed=options.seed,
    )
    parent = result.library.parent
    own = Layout.parent(parent.shape)
    models = {
        "parent": assemble(parent.config, own, parent.state_dict(), dtype=parent.dtype),
        "child": result.child(),
    }
    gains: dict[str, list[float]] = {"seconds": [], "prefill_seconds": [], "decode_seconds": []}
    for _ in range(options.repeats):
        found = speed(models, result.scenario)
        for name, column in gains.items():
            column.append(found["parent"][name] / found["child"][name])
    report = {
        "device": device_record(),
        "versions": {"puzzle": puzzle.__version__, "transformers": transformers.__version__},
        "seed": options.seed,
        "gain": {
            name: {
                "predicted": 1 / result.predicted.ratio(name),
                "median": statistics.median(column),
                "least": min(column),
                "most": max(column),
            }
            for name, column in gains.items()
        },
        "result": result.to_dict(),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
