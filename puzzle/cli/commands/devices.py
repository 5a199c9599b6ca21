"""puzzle devices: `puzzle.devices`."""

from __future__ import annotations

from puzzle.cli.command import Answer, Command
from puzzle.cli.options import Given
from puzzle.hardware.listing import devices


def _run(given: Given) -> Answer:
    found = devices()
    values = [device.to_dict() for device in found]
    return Answer(values=values, text="\n".join(str(device) for device in found))


DEVICES = Command(
    name="devices",
    help="list what this machine can measure and run on",
    options=(),
    examples=("puzzle devices", "puzzle devices --json"),
    run=_run,
)
