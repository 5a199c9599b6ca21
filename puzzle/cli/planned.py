"""The plan of a subcommand from options alone: on this machine, or on devices elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from puzzle import costs, models, pipeline
from puzzle.cli.flags import Given
from puzzle.cli.inputs import DATA, OUT, precision, sources, steps_of, table
from puzzle.cli.subcommand import Answer, UsageError, required
from puzzle.progress.stage_display import duration
from puzzle.storage.disk import free_bytes
from puzzle.text.data_config import DataConfig
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
    if given.get("library") is not None:
        raise UsageError("--dry-run: a shared library is searched in seconds; leave it out")
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
    rows = _rows(estimate, f"of {free / GIB:.1f} GiB free")
    return _answer(estimate, values, _text(estimate, steps.space, rows, "measured here"), device)


def planned_elsewhere(given: Given) -> Answer:
    """Returns what a search would take on devices that are not here; only a config is read.

    Args:
        given: The options, `devices` and `storage` among them.

    Raises:
        UsageError: No parent, or no devices are given.
    """
    parent, word = required(given, "parent"), required(given, "devices")
    fleet = pipeline.Fleet.named(word, given.get("storage"))
    options = Given({"hardware": f"roofline:{fleet.device.name}", **given.values})
    steps = steps_of(options, models.shape_of(models.load_config(parent)))
    served = costs.served_format(options.get("hardware")).name
    steps = replace(steps, workload=steps.workload.served_in(served))
    data = replace(DataConfig(), **given.arguments(DATA))
    estimate = pipeline.plan(steps, data, fleet=fleet)
    where = f"{fleet.count} x {fleet.device.name}, storage {fleet.storage / 1e9:g} GB/s"
    values = {**estimate.to_dict(), "devices": fleet.count, "device": fleet.device.name}
    rows = _rows(estimate, where)
    text = _text(estimate, steps.space, rows, "of each device")
    return _answer(estimate, {**values, "storage": fleet.storage}, text, fleet.device.name)


def _answer(estimate: Plan, values: dict[str, Any], text: str, device: str) -> Answer:
    if not estimate.too_large:
        return Answer(values=values, text=text)
    stages = ", ".join(step.name for step in estimate.too_large)
    text += f"\n{device} has {estimate.room / GIB:.1f} GiB of memory: too little for {stages}"
    return Answer(values=values, text=text, code=1)


def _rows(estimate: Plan, place: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("stage", "time", "memory", "disk", "reads", "scratch", "work"),
    ]
    for step in estimate.steps:
        bytes_ = (step.memory, step.disk, step.reads, step.scratch)
        sizes = (f"{size / GIB:.2f} GiB" for size in bytes_)
        rows.append((step.name, duration(step.seconds), *sizes, step.work))
    scratch = max((step.scratch for step in estimate.steps), default=0.0)
    sums = (estimate.memory, estimate.disk, estimate.reads, scratch)
    total = (f"{size / GIB:.2f} GiB" for size in sums)
    return [*rows, ("total", duration(estimate.seconds), *total, place)]


def _text(estimate: Plan, space: SearchSpace, rows: list[tuple[str, ...]], rates_are: str) -> str:
    rates = estimate.rates
    return (
        f"{space!r}\n{table(rows)}\n"
        f"estimated from {rates.model / 1e9:.0f} and {rates.fits / 1e9:.0f} Gflop/s (model, fits) "
        f"and {rates.bandwidth / 1e9:.0f} GB/s {rates_are}, assuming that\n"
        + "\n".join(f"  {sentence}" for sentence in estimate.assumed)
        + "\nnothing was written"
    )
