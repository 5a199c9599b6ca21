"""Costs calibrated in llama.cpp against layouts it has not seen, SmolLM2-135M's sizes.

Run it with `python benchmarks/costs_llama_cpp.py`; it needs the extra [serve-llama].
Every layout takes turns with the parent, in one thread. It prints one JSON object.
"""

import sys
import time

from common.cost_checks import PARENT, SPACE, arguments, report, scenario_of

from puzzle.costs.calibrated.engine_costs import EngineCalibrated
from puzzle.costs.calibrated.engines import LlamaCpp
from puzzle.errors import CostModelError
from puzzle.storage.workspace import Workspace


def main() -> None:
    """Calibrates, then checks."""
    parser = arguments(__doc__)
    parser.add_argument("--weights", default="f16")
    parser.add_argument("--goal", type=float, default=0.05)
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    engine = LlamaCpp(
        weights=options.weights, threads=1, rounds=options.rounds, clock=options.clock
    )
    scenario = scenario_of(options, "bfloat16")
    try:
        costs = EngineCalibrated.measure(
            engine,
            PARENT,
            SPACE,
            scenario,
            workspace=Workspace(options.out),
            goal=options.goal,
            seed=options.seed,
            max_seconds=options.seconds,
        )
    except CostModelError as error:
        sys.exit(str(error))
    report(costs, engine, options, scenario, deadline)


if __name__ == "__main__":
    main()
