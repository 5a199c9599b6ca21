"""Costs in torch against whole layouts, SmolLM2-135M's sizes.

Run it with `python benchmarks/costs_torch.py [--model measured|corrected|calibrated]`. What they
are checked against is `generate()` of transformers; every layout takes turns with the parent. It
prints one JSON object.
"""

import sys
import time
from types import SimpleNamespace

import torch
from common.cost_checks import PARENT, SHAPE, SPACE, arguments, report, scenario_of

from puzzle.costs.calibrated.engine_costs import EngineCalibrated
from puzzle.costs.calibrated.engines import TorchGenerate
from puzzle.costs.measured.sublayers import MeasuredCosts
from puzzle.costs.measured.whole_layouts import WholeLayouts
from puzzle.errors import CostModelError
from puzzle.models.families import LLAMA
from puzzle.stages import Run
from puzzle.storage.workspace import Workspace

# What a search takes is "corrected": measured, then corrected by a few whole layouts.
MODELS = ("measured", "corrected", "calibrated")


def main() -> None:
    """Measures or calibrates, then checks."""
    parser = arguments(__doc__)
    parser.add_argument("--model", default="corrected", choices=MODELS)
    parser.add_argument("--goal", type=float, default=0.05)
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    engine = TorchGenerate(rounds=options.rounds, clock=options.clock)
    scenario = scenario_of(options, "bfloat16")
    workspace = Workspace(options.out)
    if options.model != "calibrated":
        # Only the parent's sizes are used here.
        parent = SimpleNamespace(
            shape=SHAPE,
            config=PARENT.config,
            dtype=torch.bfloat16,
            rope=lambda length: LLAMA.rope(PARENT.config, length),
        )
        place = {"workspace": workspace, "clock": options.clock}
        costs = MeasuredCosts.measure(parent, SPACE, scenario, **place)
        if options.model == "corrected":
            whole = WholeLayouts(space=SPACE, scenario=scenario, device="cpu", clock=options.clock)
            costs, _ = whole.correct(Run(workspace=workspace, parent=parent), costs)
    else:
        try:
            costs = EngineCalibrated.measure(
                engine,
                PARENT,
                SPACE,
                scenario,
                workspace=workspace,
                goal=options.goal,
                seed=options.seed,
                max_seconds=options.seconds,
            )
        except CostModelError as error:
            sys.exit(str(error))
    report(costs, engine, options, scenario, deadline)


if __name__ == "__main__":
    main()
