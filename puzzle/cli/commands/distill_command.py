"""puzzle distill: `puzzle.distill`, also under `accelerate launch -m puzzle.cli`."""

from __future__ import annotations

from typing import Any

import puzzle
from puzzle import distillation, pipeline
from puzzle.cli.flags import Given, Option, declared_options, grouped
from puzzle.cli.inputs import table
from puzzle.cli.signatures import declared, declared_in_source
from puzzle.cli.subcommand import Answer, Subcommand, UsageError, required
from puzzle.distillation.distill_config import TOP_K, DistillConfig
from puzzle.storage.paths import user_path

SOURCES = (
    Option(
        name="child",
        parameter="child",
        positional=True,
        help="the directory of the child; it is not changed",
    ),
    Option(
        name="parent",
        parameter="parent",
        positional=True,
        help="hub id, directory or GGUF file of its parent; not needed with --teacher",
    ),
    Option(
        name="text",
        parameter="data",
        aliases=("data",),
        help="text: a plain text file, or .jsonl, .json or .parquet with text or messages",
    ),
    Option(
        name="validation",
        parameter="validation",
        help="such a file that is never trained on",
    ),
    Option(
        name="loss",
        parameter="losses",
        many=True,
        help="a term and its weight, such as kl=1; repeatable (default: cosine=1 kl=1)",
    ),
)
DEVICES = Option(
    name="devices",
    parameter="devices",
    help="number and name of the devices that --dry-run plans for, such as 16xh100-sxm "
    "(default: one of this machine)",
)
OWN = declared_options(
    declared_in_source("puzzle", "distill"),
    skip=("child", "parent", "data", "validation", "tokenizer", "callbacks"),
    changes={
        "teacher": {
            "help": "a directory of the parent's outputs that was filled before, or the URL of a "
            "server from which it is filled first; then no parent is opened or needed, and only "
            'the losses "kl" and "lm" can be computed'
        },
        "resume": {
            "help": "continue from the newest intact checkpoint of the same child, parent, text "
            "and settings; with --no-resume there must be none in the run directory"
        },
    },
)
CONFIG = declared_options(declared(DistillConfig), skip=("losses", "betas", "boundaries"))


def _run(given: Given) -> Answer:
    child, data = (required(given, name) for name in ("child", "text"))
    parent = given.get("parent") if given.get("teacher") else required(given, "parent")
    validation = given.get("validation")
    result = puzzle.distill(
        child,
        parent,
        user_path(data),
        config=_config(given),
        validation=None if validation is None else user_path(validation),
        **given.arguments(OWN),
    )
    values = {**result.to_dict(), "path": str(result.path)}
    return Answer(
        values=values,
        text=f"{result.table()}\nchild: {result.path}",
        rows=[("", "start", "end"), *result.rows()],
    )


def _config(given: Given) -> DistillConfig:
    settings: dict[str, Any] = given.arguments(CONFIG)
    if given.get("loss"):
        settings["losses"] = dict(_loss(text) for text in given.get("loss"))
    config = DistillConfig(**settings)
    if given.get("teacher"):
        _require_offline(config)
    return config


def _plan(given: Given) -> Answer:
    """Returns the memory of each process and the time of the steps; only configs are read."""
    child, config = required(given, "child"), _config(given)
    parent = child if given.get("teacher") else required(given, "parent")
    gpus = [each for each in puzzle.devices() if each.torch_name not in (None, "cpu")]
    name, count, room = "cpu", 1, float(pipeline.device_room("cpu", "cpu")[1])
    fleet = pipeline.Fleet.named(given.get("devices")) if given.get("devices") else None
    if fleet is not None:
        name, count, room = fleet.device.name, fleet.count, fleet.device.memory
    elif gpus:
        name, room = gpus[0].name, float(gpus[0].memory_total or 0)
    memory = distillation.distill_memory(
        child,
        parent,
        config=config,
        processes=count,
        offline=TOP_K if given.get("teacher") else 0,
        device="cpu" if name == "cpu" else "cuda",
    )
    flops = distillation.distill_flops(
        child, parent, config=config, offline=bool(given.get("teacher"))
    )
    rows: list[tuple[str, ...]] = [("in each process", "memory"), *memory.rows()]
    text = f"{table(rows)}\n{name} has {room / 1e9:.1f} GB; nothing was written"
    values = {**memory.to_dict(), "device": name, "device_memory": room, "flops": flops}
    if fleet is not None:
        values["seconds"], line = _time(flops, fleet, config)
        text = f"{text}\n{line}"
    return Answer(values=values, text=text, rows=rows, code=int(memory.total > room))


def _time(flops: int, fleet: pipeline.Fleet, config: DistillConfig) -> tuple[float, str]:
    """Returns the seconds of the steps on some devices, and a line with what they assume."""
    rates = fleet.rates
    rate = rates.model if config.mixed_precision == "bf16" else rates.fits
    seconds = flops / (fleet.count * rate)
    return seconds, (
        f"the steps multiply {flops:.2e} FLOP: {seconds / 3600:.3g} hours on {fleet.count}, at "
        f"{fleet.efficiency.compute} of the published rate and with nothing exchanged between them"
    )


def _loss(text: str) -> tuple[str, float]:
    name, _, weight = text.partition("=")
    try:
        return name.strip(), float(weight)
    except ValueError as error:
        raise UsageError(f"--loss {text!r}: write a term and its weight, such as kl=1") from error


def _require_offline(config: DistillConfig) -> None:
    if config.parent_losses:
        raise UsageError(
            f"--teacher: the losses {', '.join(config.parent_losses)} need the parent itself; give "
            "--loss kl=1, with or without --loss lm=1"
        )


DISTILL = Subcommand(
    name="distill",
    help="train a whole child to match its parent's outputs",
    options=(*SOURCES, *OWN, DEVICES, *grouped("training", CONFIG)),
    examples=(
        "puzzle distill puzzle-run/child ./Llama-3.2-1B --text corpus.jsonl --tokens 50000000",
        "puzzle distill puzzle-run/child ./Llama-3.2-1B --dry-run --devices 8xh100-sxm --shard",
    ),
    run=_run,
    plan=_plan,
)
