"""Where a profile was taken: on this machine and with these versions, or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from puzzle.costs.answering import own_model
from puzzle.costs.by_name import hardware_record, torch_device
from puzzle.costs.profile import Profile
from puzzle.errors import CostModelError
from puzzle.hardware.identity import software_versions

__all__ = ["profile_origin", "require_taken_here"]

ELSEWHERE = "there is no such device here"
# Those of a GPU are of the moment.
PASSING = ("clocks",)


def profile_origin(costs: Any) -> dict[str, Any] | None:
    """Returns what a profile was taken on, and how that differs from this machine.

    Args:
        costs: A cost model, or one that is wrapped.

    Returns:
        Its name, device, versions and `differences` in words, none where it was taken here, as JSON
        values; None for any other cost model.
    """
    profile = own_model(costs)
    if not isinstance(profile, Profile):
        return None
    kind = "cpu" if "processor" in profile.device else "cuda"
    there = "capability" in profile.device and (kind == "cpu" or torch.cuda.is_available())
    return {
        "name": profile.name,
        "device": dict(profile.device),
        "versions": dict(profile.versions),
        "differences": _differences(profile, kind) if there else [ELSEWHERE],
    }


def require_taken_here(profile: Profile, hardware: Any) -> None:
    """Refuses a profile of another device, or of other versions, than those of this machine.

    Args:
        profile: The profile.
        hardware: The device that it has to be of: "cpu" or "cuda", as for `cost_model`.

    Raises:
        CostModelError: It differs, and how; or the hardware is no device of this machine.
    """
    if torch_device(hardware) is None:
        raise CostModelError(
            f"hardware={hardware!r} and a profile both say what blocks cost; leave one of them "
            "out, or give hardware='cpu' or 'cuda' to require that the profile is of this machine"
        )
    if differences := _differences(profile, hardware):
        raise CostModelError(
            f"the profile of {profile.name} is not of this machine's {hardware}: "
            f"{'; '.join(differences)}. Take one here (puzzle profile), or leave out "
            f"hardware={hardware!r} to plan for the device of the profile: the result then says so"
        )


def _differences(profile: Profile, hardware: str) -> list[str]:
    own, here = profile.device, hardware_record(hardware, torch_device(hardware) or "cpu")
    shared = {key: own[key] for key in ("tensor_parallel", "link") if key in own}
    return replace(profile, device=_lasting(own)).differences(
        device={**_lasting(here), **shared}, versions=software_versions()
    )


def _lasting(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in PASSING}
