"""A search in a shared library: the layout is chosen in seconds, and its child made when needed."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from puzzle.choice.goals import Goals
from puzzle.costs.counted import with_counts
from puzzle.costs.profile import Profile
from puzzle.costs.profile_origin import require_taken_here
from puzzle.errors import DataError, SettingError
from puzzle.hardware.identity import device_record
from puzzle.library.build import Library
from puzzle.library.settings import LibraryConfig
from puzzle.limits.scenario import Scenario, WorkloadLike
from puzzle.pipeline.already_met import warn_of_met
from puzzle.pipeline.later_library import LaterLibrary
from puzzle.pipeline.layout_child import LayoutChild
from puzzle.pipeline.opening import Inputs, Opened, open_workspace
from puzzle.pipeline.outcome import predicted_of
from puzzle.pipeline.request import Request
from puzzle.pipeline.result import SearchResult
from puzzle.pipeline.watching import Watch, announce_result
from puzzle.report.comparison import Comparison
from puzzle.report.evidence import Evidence, costs_record, describe_run
from puzzle.sharing.profile_places import open_profile
from puzzle.sharing.shared_library import SharedLibrary
from puzzle.storage.versions import versions
from puzzle.storage.workspace import Workspace
from search_space import Layout
from solvers import Solution

__all__ = ["SharedSearch", "given_library", "planned_costs"]

STAGES = ("choice", "child")
# What a search in a shared library has no use for, and what these are by default.
UNUSED: dict[str, tuple[Any, str]] = {
    "space": ("small", "the library has one"),
    "scores": (None, "the library has its own"),
    "executor": (None, "nothing is fitted by layer jobs"),
}


def given_library(library: Any) -> SharedLibrary | None:
    """Returns the shared library that `library=` of `puzzle.search` names, or None.

    Args:
        library: A directory, a hub id, or a library that is open; or how variants are made.

    Raises:
        DataError: There is none, or it cannot be downloaded, or is damaged.
        SettingError: It is something else.
    """
    if library is None or isinstance(library, LibraryConfig):
        return None
    if isinstance(library, SharedLibrary):
        return library
    if isinstance(library, str | os.PathLike):
        return SharedLibrary.open(library)
    raise SettingError(
        f"library={library!r}; allowed: a LibraryConfig, or a shared library: its directory or hub "
        "id, or a SharedLibrary"
    )


def planned_costs(
    hardware: Any, profile: Any, scenario: WorkloadLike | None, shared: SharedLibrary | None
) -> tuple[Any, WorkloadLike | None]:
    """Returns the hardware that costs describe, and the scenario, which a profile decides.

    Args:
        hardware: As for `puzzle.search`.
        profile: As for `puzzle.search`.
        scenario: As for `puzzle.search`.
        shared: The shared library, if one is searched.

    Raises:
        CostModelError: The profile is not there, or not what it has to be of.
    """
    if profile is not None:
        found: Profile = open_profile(profile, shared)
        if hardware is not None:
            require_taken_here(found, hardware)
        return found, found.scenario if scenario is None else scenario
    if shared is None:
        return "cpu" if hardware is None else hardware, scenario
    if scenario is not None and not isinstance(scenario, Scenario):
        raise SettingError(
            "several scenarios, and a shared library is searched for one; give a Scenario"
        )
    return shared.costs(hardware, scenario)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedSearch:
    """A search whose blocks and scores are those of a shared library.

    Args:
        library: The library.
        request: The search; its hardware is a cost model that needs no measuring.
        inputs: Parent, text and tokenizer as they were given, each None if it was not.
        out: The run directory.
        resume: As for `puzzle.search`.

    Raises:
        SettingError: An argument has no use here.
    """

    library: SharedLibrary
    request: Request
    inputs: Inputs
    out: str | os.PathLike[str]
    resume: bool = True

    def __post_init__(self) -> None:
        for name, (default, why) in UNUSED.items():
            if (given := getattr(self.request, name)) != default:
                raise SettingError(f"{name}={given!r} has no use with a shared library: {why}")
        if self.request.effort == "thorough":
            raise SettingError(
                "effort='thorough' has no use with a shared library: its scores choose the layout, "
                "and nothing else is measured; leave it out"
            )
        if len(self.request.workload.scenarios) > 1:
            raise SettingError("a shared library is searched for one scenario; give a Scenario")

    @property
    def stages(self) -> tuple[str, ...]:
        """What is shown of it as it goes."""
        return STAGES

    def run(self, watch: Watch) -> SearchResult:
        """Returns the result: what is not measured is not in it.

        Without parent and text, nothing of the parent is read before the child is needed.

        Args:
            watch: What shows the stages.

        Raises:
            ParentError: The library is not of the parent that was given.
            InfeasibleError: No layout meets the constraints.
        """
        place = open_workspace(self.out, resume=self.resume)
        settings = self.request.description(self.inputs.parent)
        watch.trackers.begin(str(place.root), settings, self.request.seed, cpu=True)
        with watch.running():
            with watch.stage("choice"):
                goals = self._goals()
                solution = self.library.solve(
                    goals, solver=self.request.solver, seed=self.request.seed
                )
            with watch.stage("child"):
                result = self._result(goals, solution, place)
            announce_result(result.measured)
        return result

    def _goals(self) -> Goals:
        space, distinct = self.library.index.space, self.request.distinct
        assert isinstance(self.request.constraints, tuple)
        goals = Goals(
            self.request.constraints,
            self.request.workload,
            with_counts(self.request.hardware, self.library.shape),  # type: ignore[arg-type]
            space if distinct is None else replace(space, distinct=distinct),
            self.request.minimise,
        )
        goals.refuse_unreachable()
        warn_of_met(goals)
        return goals

    def _result(self, goals: Goals, solution: Solution, place: Workspace) -> SearchResult:
        layout, scenario = self.library.layout(solution), self._scenario
        inputs, opened, child = self.inputs, None, None
        blocks: Library | LaterLibrary
        if inputs.parent is None and inputs.text is None:
            name = self.library.index.parent.name
            opening = partial(self._blocks, layout, place)
            blocks = LaterLibrary(unopened=name, root=place.root, opening=opening)
        else:
            opened = self.library.open_parent(inputs, place)
            child = self.library.child_in(opened, layout)
            blocks = child.library
        return SearchResult(
            layout=layout,
            solution=solution,
            scenario=scenario,
            predicted=predicted_of(goals, self.library.scores, layout, scenario),
            measured=_measured(layout, child, scenario),
            library=blocks,
            stored_dtype=self.library.index.parent.dtype,
            evidence=Evidence(
                problem=goals.problem(self.library.scores, timed=True),
                scores=self.library.scores,
                constraints=goals.constraints,
                run=self._described(goals, opened),
            ),
            validation=None if inputs.text is None or not opened else opened.run.text.validation,
        )

    def _blocks(self, layout: Layout, place: Workspace) -> Library:
        opened = self.library.open_parent(self.inputs, place)
        return self.library.child_in(opened, layout).library

    @property
    def _scenario(self) -> Scenario:
        return next(iter(self.request.workload.scenarios.values()))

    def _described(self, goals: Goals, opened: Opened | None) -> dict[str, Any]:
        settings = {**self.request.settings(), "space": None, "effort": "fast"}
        settings |= {"solver": self.request.solver, "seed": self.request.seed}
        library, record = self.library, self.library.index.parent
        made = {"place": str(library.place), "made": dict(library.index.made)}
        if opened is not None and opened.run.windows is not None:
            described = describe_run(
                source=self.inputs.parent or record.name,
                parent=opened.run.parent,
                data=self.inputs.data,
                windows=opened.run.text,
                costs=goals.costs,
                formats=opened.formats,
                **settings,
            )
            return {**described, "library": made}
        given = self.inputs.parent
        named = given is None or isinstance(given, str | os.PathLike)
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "parent": {
                "source": os.fspath(given or record.name) if named else None,
                "name": record.name,
                "hash": record.weights,
            },
            "data": asdict(self.inputs.data),
            "text": {},
            **costs_record(goals.costs),
            "settings": settings,
            "versions": versions(),
            "device": device_record("cpu"),
            "library": made,
        }


def _measured(layout: Layout, child: LayoutChild | None, scenario: Scenario) -> Comparison:
    quality = {} if child is None or child.quality is None else child.quality.to_dict()
    layouts = {"parent": Layout.parent(layout.shape), "child": layout}
    values = {
        who: {"parameters": float(each.parameters()), **quality.get(who, {})}
        for who, each in layouts.items()
    }
    return Comparison.from_dict(values, scenario)


def require_inputs(parent: Any, text: Any) -> None:
    """Refuses a search without a shared library that lacks its parent or its text.

    Raises:
        DataError: One is missing.
    """
    for name, value, what in (
        ("parent", parent, "a hub id, a directory or a model"),
        ("text", text, "a string, a list of strings, a data set or the Path of a file"),
    ):
        if value is None:
            raise DataError(
                f"{name} is missing: give {what}; only library='HUB-ID OR DIRECTORY' of a shared "
                "library does without"
            )
