"""Prefill and decode seconds of SmolLM2-135M's sizes and a child of them in vLLM, random weights.

    python benchmarks/vllm_speed.py --python build/venv-vllm/bin/python

The environment is that of serve_vllm.sh; the child has the fixed layout of serve_speed.py. Each is
run by vLLM's own latency benchmark in a process of its own, with one thread.
"""

import argparse
import json
from types import SimpleNamespace

from common.cost_checks import PARENT, SHAPE, scenario_of
from common.machine import print_machine
from serve_speed import fixed_layout

from puzzle.costs.calibrated.engines import Vllm
from puzzle.costs.calibrated.session import Session
from puzzle.storage.workspace import Workspace
from search_space import Layout


def main() -> None:
    """Runs both and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="the interpreter that has vLLM")
    parser.add_argument("--out", default="out/vllm")
    parser.add_argument("--iterations", type=int, default=3)
    for name, value in (("batch", 1), ("prompt-tokens", 128), ("generated-tokens", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    engine = Vllm(
        python=options.python,
        arguments=("--enforce-eager",),
        iterations=options.iterations,
        warm_up=1,
        environment={"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
    )
    scenario = scenario_of(options, "bfloat16")
    session = Session(
        engine=engine, config=PARENT.config, scenario=scenario, workspace=Workspace(options.out)
    )
    child = fixed_layout(SimpleNamespace(shape=SHAPE))
    timings = {
        name: session.measure(layout).timing
        for name, layout in (("parent", Layout.parent(SHAPE)), ("child", child))
    }
    gains = {
        phase: timings["parent"].median(phase) / timings["child"].median(phase)
        for phase in ("prefill", "decode", "seconds")
    }
    report = {
        "machine": print_machine(dtype=scenario.weight_dtype),
        "engine": engine.record(),
        "scenario": scenario.to_dict(),
        "seconds": {name: timing.to_dict() for name, timing in timings.items()},
        "parent / child": gains,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
