"""puzzle profile: what every block of a space costs, as `puzzle.Profile`."""

from __future__ import annotations

from puzzle import costs as cost_models
from puzzle import hardware
from puzzle.cli.flags import Given, Option
from puzzle.cli.inputs import STAGE, open_stages, refuse_source_files, table
from puzzle.cli.planned import planned
from puzzle.cli.subcommand import Answer, Subcommand
from puzzle.costs.profile import Profile
from search_space import Block

OWN = (
    Option(
        name="hardware",
        parameter="hardware",
        default="cpu",
        help="cpu: measured here; roofline:DEVICE such as roofline:h100-sxm; table:FILE; an "
        "engine to calibrate in, or command:LINE; MODULE:CLASS of your own",
    ),
    Option(name="save", parameter="save", help="write the profile to this JSON file"),
)


def _run(given: Given) -> Answer:
    refuse_source_files(given, "save")
    opened, word = open_stages(given, text=False), given.get("hardware", "cpu")
    (scenario,) = opened.steps.workload.scenarios.values()
    here = cost_models.is_run_here(word)
    device = cost_models.torch_device(word) or "cpu"
    profile = Profile.take(
        opened.run.get(opened.steps.costs(scenario)),
        opened.steps.space,
        scenario,
        device=hardware.device_record(device) if here else {"name": word},
        versions=hardware.software_versions() if here else None,
    )
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
    options=(*(o for o in STAGE if o.name != "text"), *OWN),
    examples=(
        "puzzle profile --demo --save cpu.json",
        "puzzle profile ./Llama-3.2-1B --hardware roofline:h100-sxm --json",
    ),
    run=_run,
    plan=lambda given: planned(given, ("costs",), text=False),
)
