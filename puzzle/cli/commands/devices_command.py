"""puzzle devices: `puzzle.devices`."""

from __future__ import annotations

import puzzle
from puzzle.cli.flags import Given
from puzzle.cli.subcommand import Answer, Subcommand


def _run(given: Given) -> Answer:
    devices = puzzle.devices()
    values = [device.to_dict() for device in devices]
    return Answer(values=values, text="\n".join(str(device) for device in devices))


DEVICES = Subcommand(
    name="devices",
    help="list what this machine can measure and run on",
    options=(),
    examples=("puzzle devices", "puzzle devices --json"),
    run=_run,
)
