"""puzzle env: what a report of a bug needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from puzzle import upkeep
from puzzle.cli.flags import Given
from puzzle.cli.subcommand import Answer, Subcommand


def _run(given: Given) -> Answer:
    values = upkeep.environment()
    return Answer(values=values, text="\n".join(_lines(values)))


def _lines(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{name}: {', '.join(f'{key} {each}' for key, each in value.items()) or 'none'}"
        elif isinstance(value, list):
            yield from (f"{name.removesuffix('s')}: {each}" for each in value)
        elif name == "memory":
            yield f"memory: {value / 2**30:.1f} GiB"
        else:
            yield f"{name}: {value}"


ENV = Subcommand(
    name="env",
    help="say versions, machine and devices, for a report of a bug",
    options=(),
    examples=("puzzle env", "puzzle env --json"),
    run=_run,
)
