"""puzzle plan: `puzzle.pipeline.plan` for devices that are not here."""

from __future__ import annotations

from puzzle.cli.commands.search_command import OWN
from puzzle.cli.flags import Option
from puzzle.cli.inputs import DATA, LIBRARY, PARENT, SCENARIO, WORKLOAD
from puzzle.cli.planned import planned_elsewhere
from puzzle.cli.subcommand import Subcommand

DEVICES = Option(
    name="devices",
    parameter="devices",
    help="number and name of the devices, such as 8xh100-sxm",
)
STORAGE = Option(
    name="storage",
    parameter="storage",
    help="what the storage gives to all of them together, such as 12GB/s (default: 3GB/s)",
)
SEARCHED = ("space", "effort", "scores", "hardware")

PLAN = Subcommand(
    name="plan",
    help="what a search would take of time, memory, disk and reads on devices elsewhere",
    options=(
        *(option for option in PARENT if option.parameter == "parent"),
        DEVICES,
        STORAGE,
        *(option for option in OWN if option.parameter in SEARCHED),
        *SCENARIO,
        WORKLOAD,
        *DATA,
        *LIBRARY,
    ),
    examples=(
        "puzzle plan ./Llama-3.1-70B --devices 8xh100-sxm --storage 12GB/s",
        "puzzle plan ./Llama-3.1-8B --devices l40s --effort fast --json",
    ),
    run=planned_elsewhere,
)
