"""--dry-run: the plan of a subcommand, from options alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from puzzle import costs, models, pipeline
from puzzle.cli.flags import Given
from puzzle.cli.inputs import OUT, precision, sources, steps_of, table
from puzzle.cli.subcommand import Answer
from puzzle.progress.stage_display import duration
from puzzle.storage.disk import free_bytes
from search_space import SearchSpace

if TYPE_CHECKING:
    from puzzle.pipeline.planning import Plan

GIB = 2.0**30


def planned(
    given: Given,
    names: Collection[str] | None = None,
    *,
    text: bool = True,
    method: str | None = None,
) -> Answer:
    """Returns what stages would take; nothing is written and no weight is read.

    Args:
        given: The options.
        names: Names of the estimates to add up; all of a search's if not given.
        text: Whether the subcommand reads text.
        method: How blocks are scored; by default as the effort says.
    """
    source = sources(given, text=text, fetch=False)
    steps = steps_of(given, models.shape_of(models.load_config(source.parent)), method=method)
    formats = precision(given)
    served = costs.served_format(given.get("hardware", "cpu")).name
    steps = replace(steps, workload=steps.workload.served_in(served))
    device, room = pipeline.device_room(given.get("device"), given.get("hardware", "cpu"))
    estimate = pipeline.plan(
        steps, source.data, names=names, working=formats.working, device=device, room=room
    )
    free = free_bytes(given.get("out", OUT.default))
    values = {**estimate.to_dict(), "free_disk": free, "space": repr(steps.space)}
    text_answer = _text(estimate, steps.space, free)
    if not estimate.too_large:
        return Answer(values=values, text=text_answer)
    stages = ", ".join(step.name for step in estimate.too_large)
    text_answer += f"\n{device} has {room / GIB:.1f} GiB of memory: too little for {stages}"
    return Answer(values=values, text=text_answer, code=1)


def _text(estimate: Plan, space: SearchSpace, free: float) -> str:
    rows: list[tuple[str, ...]] = [("stage", "time", "memory", "disk", "work")]
    for step in estimate.steps:
        sizes = (f"{size / GIB:.2f} GiB" for size in (step.memory, step.disk))
        rows.append((step.name, duration(step.seconds), *sizes, step.work))
    total = (f"{size / GIB:.2f} GiB" for size in (estimate.memory, estimate.disk))
    rows.append(("total", duration(estimate.seconds), *total, f"of {free / GIB:.1f} GiB free"))
    rates = estimate.rates
    assumed = pipeline.ASSUMED
    return (
        f"{space!r}\n{table(rows)}\n"
        f"estimated from {rates.model / 1e9:.0f} and {rates.fits / 1e9:.0f} Gflop/s (model, fits) "
        f"and {rates.bandwidth / 1e9:.0f} GB/s measured here, assuming that\n"
        + "\n".join(f"  {sentence}" for sentence in assumed)
        + "\nnothing was written"
    )
