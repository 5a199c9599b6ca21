"""Evidence: what a layout was chosen from, kept so that the choice can be shown and repeated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from puzzle.choice.layout_choice import tried_layouts
from puzzle.costs.answering import model_name
from puzzle.costs.correction import Correction
from puzzle.costs.profile_origin import profile_origin
from puzzle.errors import DataError
from puzzle.hardware.identity import device_record
from puzzle.hardware.precision import Formats, Precision
from puzzle.library.local_error import LocalError
from puzzle.library.settings import LibraryConfig
from puzzle.limits.constraints import Constraint
from puzzle.limits.scenario import Workload
from puzzle.models.parent import Parent
from puzzle.scoring.scores import Score, Scores
from puzzle.storage.json_files import interpreting
from puzzle.storage.json_values import as_count, as_number, as_object, as_text, field_values
from puzzle.storage.versions import versions
from puzzle.text.data_config import PARTS, DataConfig
from puzzle.text.windows import Windows
from solvers import ChoiceProblem, Solution, problem_from_dict, problem_to_dict

Errors = tuple[Mapping[str, LocalError], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Evidence:
    """What a layout was chosen from.

    Args:
        problem: The program: every block's score and resources, and the limits.
        scores: The scores, with the method of each and its standard error.
        errors: Local errors of every layer's variants, by name; empty if there is no library.
        constraints: The constraints as they were given.
        measured: KL of the chosen layout on the text that chose it; None if the program's optimum
            was taken unmeasured.
        tried: Measured KL, on the same text, of all layouts that the choice was made among, by
            block labels.
        workload: The scenarios, where they have names.
        corrections: How far predicted seconds were from measured ones of whole layouts, and what
            was done about it, by resource; of the first scenario.
        run: Parent, text, settings, versions and device, as `describe_run` returns them.
        seconds: Of scenarios with names, the seconds of "parent" and "child" in each phase, by the
            scenario's name: measured, or predicted where they were not.
        by_text: Of a search with several texts, their shares and the child's quality on each.
    """

    problem: ChoiceProblem
    scores: Scores
    errors: Errors = ()
    constraints: tuple[Constraint, ...] = ()
    measured: Score | None = None
    tried: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    workload: Workload | None = None
    corrections: Mapping[str, Correction] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    by_text: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def minimised(self) -> str:
        """What the program minimises: "kl", or the resource that is minimised instead."""
        return str(self.run.get("settings", {}).get("minimise", "kl"))

    def kl_problem(self) -> ChoiceProblem:
        """Returns the program with the KL as its objective, whatever the search minimised."""
        if self.minimised == "kl":
            return self.problem
        score = [
            self.scores.kl(layer, label)
            for layer, labels in enumerate(self.problem.groups)
            for label in labels
        ]
        return replace(self.problem, score=np.array(score))

    def own_solution(self, solution: Solution) -> Solution | None:
        """Returns a solution if it was found within this problem's limits, else None.

        A search tightens a limit that its child missed when it was measured.
        """
        own = {side.text for limit in self.problem.limits for side in limit.sides()}
        return solution if set(solution.slack) == own else None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "problem": problem_to_dict(self.problem),
            "scores": self.scores.to_dict(),
            "errors": [{k: e.to_dict() for k, e in layer.items()} for layer in self.errors],
            "constraints": [asdict(constraint) for constraint in self.constraints],
            "measured": self.measured.to_dict() if self.measured else None,
            "tried": [[list(labels), kl] for labels, kl in self.tried.items()],
            "corrections": {name: each.to_dict() for name, each in self.corrections.items()},
            "workload": self.workload.to_dict() if self.workload else None,
            "run": dict(self.run),
            "seconds": {k: {w: dict(s) for w, s in v.items()} for k, v in self.seconds.items()},
            "by_text": {name: dict(values) for name, values in self.by_text.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evidence:
        """Returns the evidence that `to_dict` wrote.

        Raises:
            DataError: A value is missing, or of another kind.
        """
        with interpreting("the values", "evidence of a search"):
            measured, workload = values["measured"], values.get("workload")
            evidence = cls(
                problem=problem_from_dict(values["problem"]),
                scores=Scores.from_dict(values["scores"]),
                errors=tuple(LocalError.read(layer) for layer in values["errors"]),
                constraints=tuple(map(_constraint, values["constraints"])),
                measured=Score.from_dict(measured) if measured else None,
                tried=tried_layouts(values.get("tried", [])),
                corrections={
                    name: Correction.from_dict(each)
                    for name, each in values.get("corrections", {}).items()
                },
                workload=Workload.from_dict(workload) if workload else None,
                run=_checked_run(values["run"]),
                seconds=_seconds(values.get("seconds", {})),
                by_text=_figures_by_name(values.get("by_text", {})),
            )
            return _require_whole(evidence)


def _constraint(values: Any) -> Constraint:
    given = field_values(Constraint, values, skip=("relation", "at"))
    at = tuple((as_text(name, "at"), as_number(n, "at")) for name, n in given.get("at", ()))
    return Constraint(**{**given, "at": at})


def _seconds(values: Any) -> dict[str, dict[str, dict[str, float]]]:
    """Returns the seconds by scenario, model and phase."""
    return {
        name: {
            who: {phase: as_number(s, phase) for phase, s in as_object(both[who], who).items()}
            for who in ("parent", "child")
        }
        for name, both in as_object(values, "seconds").items()
    }


def _figures_by_name(values: Any) -> dict[str, dict[str, float]]:
    return {
        name: {key: as_number(n, key, finite=False) for key, n in as_object(own, name).items()}
        for name, own in as_object(values, "by_text").items()
    }


def _checked_run(values: Any) -> Mapping[str, Any]:
    """Returns a run's description if what the report reads of it is there, in the right kind."""
    run = as_object(values, "run")
    if not run:
        return run
    for name in ("costs", "date"):
        as_text(run[name], f"run.{name}")
    parent = as_object(run["parent"], "run.parent")
    for name in ("name", "hash", *(["source"] if parent["source"] is not None else [])):
        as_text(parent[name], f"run.parent.{name}")
    texts = as_object(run["text"], "run.text")
    # A layout that is chosen from a shared library needs none.
    for name in () if "library" in run and not texts else PARTS:
        text = as_object(texts[name], f"run.text.{name}")
        as_count(text["tokens"], f"run.text.{name}.tokens")
        as_text(text["hash"], f"run.text.{name}.hash")
    for name in ("versions", "device"):
        as_object(run[name], f"run.{name}")
    DataConfig(**field_values(DataConfig, run["data"]))
    if "formats" in run:
        Formats.from_dict(run["formats"])
    _check_settings(as_object(run["settings"], "run.settings"))
    for name, whole in (("profile", ("name", "differences")), ("library", ("place",))):
        if name in run and not set(whole) <= set(as_object(run[name], f"run.{name}")):
            raise DataError(f"run.{name} lacks {' or '.join(whole)}")
    return run


def _check_settings(settings: Mapping[str, Any]) -> None:
    for name in ("space", "effort", "solver", "seed"):
        if name not in settings:
            raise DataError(f"run.settings.{name} is missing")
    if settings.get("precision"):
        Precision(**field_values(Precision, settings["precision"]))
    if settings.get("library"):
        LibraryConfig.from_dict(settings["library"])


def _require_whole(evidence: Evidence) -> Evidence:
    """Returns the evidence if it has a score for each block of the program."""
    layers = len(evidence.problem.groups)
    for what, rows in (("scores", evidence.scores), ("errors", evidence.errors)):
        if len(rows) != layers and (rows or what == "scores"):
            raise DataError(f"{what} are of {len(rows)} layers, and the program of {layers}")
    for layer, labels in enumerate(evidence.problem.groups):
        for label in labels:
            if label not in evidence.scores[layer]:
                raise DataError(f"there is no score of {label!r} in layer {layer}")
    return evidence


def describe_run(
    *,
    source: Any,
    parent: Parent,
    data: DataConfig,
    windows: Windows,
    costs: Any,
    formats: Formats,
    **settings: Any,
) -> dict[str, Any]:
    """Returns all that is needed to repeat a search, as JSON values.

    Args:
        source: The parent as it was given to `search`.
        parent: The parent opened.
        data: How the text was cut.
        windows: The text; its hashes are kept, not the text.
        costs: The cost model; its own class is named, not those that wrap it.
        formats: The number formats, and why they were chosen.
        settings: The other arguments of `search`, as they were given.
    """
    named = isinstance(source, str | os.PathLike)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "parent": {
            "source": os.fspath(source) if named else None,
            "name": parent_name(source, parent),
            "hash": parent.identity,
        },
        "data": asdict(data),
        "text": {
            part: {"tokens": getattr(windows, part).numel(), "hash": windows.hash(part)}
            for part in PARTS
        },
        **costs_record(costs),
        "formats": formats.to_dict(),
        "settings": settings,
        "versions": versions(),
        "device": device_record(str(parent.device)),
    }


def costs_record(costs: Any) -> dict[str, Any]:
    """Returns the name of a cost model, and of a profile what it was taken on, as JSON values.

    Args:
        costs: The cost model; its own class is named, not those that wrap it.
    """
    origin = profile_origin(costs)
    return {"costs": model_name(costs), **({} if origin is None else {"profile": origin})}


def parent_name(source: Any, parent: Parent) -> str:
    """Returns what to call the parent: a hub id, the name of a file or directory, or its type."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        return os.path.basename(os.path.normpath(text)) if os.path.exists(text) else text
    stored = str(getattr(parent.config, "_name_or_path", "") or "")
    if stored and not os.path.exists(stored):
        return stored
    return os.path.basename(os.path.normpath(stored)) if stored else str(parent.config.model_type)
