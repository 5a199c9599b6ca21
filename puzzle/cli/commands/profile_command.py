"""puzzle profile: what every block of a space costs, as `puzzle.Profile`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack

from puzzle import costs as cost_models
from puzzle import executors, hardware
from puzzle.cli.flags import Given, Option
from puzzle.cli.inputs import (
    STAGE,
    OpenStages,
    named_values,
    open_stages,
    refuse_source_files,
    table,
    workload,
)
from puzzle.cli.planned import planned
from puzzle.cli.subcommand import Answer, Subcommand, UsageError
from puzzle.costs.profile import Profile
from puzzle.limits.scenario import Scenario
from puzzle.storage.paths import user_path
from search_space import Block

OWN = (
    Option(
        name="hardware",
        parameter="hardware",
        default="cpu",
        help="cpu: measured here; roofline:DEVICE such as roofline:h100-sxm; table:FILE; an "
        "engine to calibrate in, or command:LINE; MODULE:CLASS of your own",
    ),
    Option(
        name="save",
        parameter="save",
        help="write the profile to this JSON file; with --on, those of all kinds to this directory",
    ),
    Option(
        name="on",
        parameter="on",
        many=True,
        help="NAME=EXECUTOR, a kind of device and where jobs get one, such as "
        "h100=slurm:constraint=h100,gpus=1; one profile for each, all at the same time",
    ),
    Option(
        name="merge",
        parameter="merge",
        many=True,
        help="a profile of the same device and scenario to put together with others, without "
        "measuring anything; repeatable",
    ),
)


def _run(given: Given) -> Answer:
    refuse_source_files(given, "save")
    if files := given.get("merge"):
        return _answer(cost_models.merge_profiles([Profile.load(file) for file in files]), given)
    kinds = named_values("on", given.get("on", []), "NAME=EXECUTOR, such as a100=ray:gpus=1")
    opened, word = open_stages(given, text=False), given.get("hardware", "cpu")
    (scenario,) = opened.steps.workload.scenarios.values()
    if kinds:
        # What is served is decided by each device.
        (wanted,) = workload(given).scenarios.values()
        return _on_kinds(opened, wanted, kinds, given)
    here = cost_models.is_run_here(word)
    device = cost_models.torch_device(word) or "cpu"
    profile = Profile.take(
        opened.run.get(opened.steps.costs(scenario)),
        opened.steps.space,
        scenario,
        device=cost_models.hardware_record(word, device) if here else {"name": word},
        versions=hardware.software_versions() if here else None,
    )
    return _answer(profile, given)


def _on_kinds(
    opened: OpenStages, scenario: Scenario, kinds: Mapping[str, str], given: Given
) -> Answer:
    place = given.get("save")
    if wrong := [name for name in kinds if not re.fullmatch(r"[A-Za-z0-9._-]+", name)]:
        raise UsageError(f"--on {wrong[0]!r}: a kind's name is letters, digits, '.', '_' and '-'")
    if place is not None:
        try:
            user_path(place).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--save {place}: with --on it is a directory ({error})") from error
    with ExitStack() as stack:
        workers = {n: stack.enter_context(executors.executor_named(w)) for n, w in kinds.items()}
        profiles = cost_models.profile_devices(
            opened.run, opened.steps.space, scenario, workers, hardware=given.get("hardware")
        )
    if place is not None:
        for name, profile in profiles.items():
            profile.save(user_path(place) / f"{name}.json")
    tables = [f"{name}\n{_text(each, _rows(each))}" for name, each in profiles.items()]
    values = {name: each.to_dict() for name, each in profiles.items()}
    return Answer(values=values, text="\n\n".join(tables))


def _answer(profile: Profile, given: Given) -> Answer:
    file = given.get("save")
    if file is not None:
        profile.save(file)
    rows = _rows(profile)
    return Answer(values=profile.to_dict(), text=_text(profile, rows), rows=rows)


def _rows(profile: Profile) -> list[tuple[str, ...]]:
    own = profile.shape.parent_blocks[0].label
    names = list(profile.resources)
    shown = [(f"{n} ({unit})" if unit else n) for n, unit in profile.resources.items()]
    rows: list[tuple[str, ...]] = [("block", *shown)]
    rows.append(("fixed", *(f"{profile.fixed[n]:.4g}" for n in names)))
    for label, cost in profile.rows[0].items():
        mark = f"{Block.from_label(label).label}{' (parent)' if label == own else ''}"
        rows.append((mark, *(f"{cost[n]:.4g}" for n in names)))
    return rows


def _text(profile: Profile, rows: list[tuple[str, ...]]) -> str:
    layers = profile.layers.count(0)
    where = "" if len(profile.rows) == 1 else f"; as in {layers} of {len(profile.layers)} layers"
    return f"{table(rows)}\none layer, whole scenario, on {profile.name}{where}"


PROFILE = Subcommand(
    name="profile",
    help="measure or model what every block costs",
    options=(*(o for o in STAGE if o.name not in ("text", "share")), *OWN),
    examples=(
        "puzzle profile --demo --save cpu.json",
        "puzzle profile ./Llama-3.2-1B --hardware roofline:h100-sxm --json",
    ),
    run=_run,
    plan=lambda given: planned(given, ("costs",), text=False),
)
