"""Outcome: what a search arrived at, and the result that is made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from puzzle.choice.goals import Goals
from puzzle.costs.checked import layout_cost
from puzzle.evaluation.text_quality import Quality
from puzzle.library.build import Library
from puzzle.limits.scenario import Scenario
from puzzle.pipeline.opening import Inputs, Opened
from puzzle.pipeline.result import SearchResult
from puzzle.pipeline.tightening import Attempt, Chooser
from puzzle.report.comparison import Comparison
from puzzle.report.evidence import Evidence, describe_run
from puzzle.scoring.scores import Scores
from puzzle.text.text_mix import TextMix
from search_space import Layout

PHASES = ("prefill_seconds", "decode_seconds")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What a search arrived at.

    Args:
        inputs: What its run was opened from.
        opened: Its run.
        chooser: What the layout was chosen from.
        attempt: The layout chosen, and its measured seconds.
        child: The library of the child.
        quality: The child's quality.
    """

    inputs: Inputs
    opened: Opened
    chooser: Chooser
    attempt: Attempt
    child: Library
    quality: Quality

    def result(self, settings: Mapping[str, Any]) -> SearchResult:
        """Returns the result: what is predicted of parent and child, and what is measured.

        Args:
            settings: The arguments of the search, as they were given.
        """
        scenario = next(iter(self.opened.workload.scenarios.values()))
        layout = self.attempt.choice.layout
        goals, scores = self.chooser.goals, self.attempt.scores
        layouts = {"parent": Layout.parent(goals.space.shape), "child": layout}
        seconds, quality = self.attempt.seconds.get(scenario, {}), self.quality.to_dict()
        measured = {
            who: {
                "parameters": float(each.parameters()),
                **seconds.get(who, {}),
                **quality[who],
            }
            for who, each in layouts.items()
        }
        return SearchResult(
            layout=layout,
            solution=self.attempt.solution,
            scenario=scenario,
            predicted=predicted_of(goals, scores, layout, scenario),
            measured=Comparison.from_dict(measured, scenario),
            library=self.child,
            stored_dtype=self.opened.formats.stored.name,
            evidence=self._evidence(settings),
            validation=self.opened.run.text.validation,
        )

    def _evidence(self, settings: Mapping[str, Any]) -> Evidence:
        goals, run, formats = self.chooser.goals, self.opened.run, self.opened.formats
        workload, library = self.opened.workload, self.chooser.library
        scenario = next(iter(workload.scenarios.values()))
        named = set(workload.scenarios) != {""}
        precision = {"working": formats.working.name, "stored": formats.stored.name}
        description = describe_run(
            formats=formats,
            source=self.inputs.parent,
            parent=run.parent,
            data=self.inputs.data,
            windows=run.text,
            costs=goals.costs,
            **{**settings, "solver": run.solver, "seed": run.seed, "precision": precision},
        )
        return Evidence(
            problem=goals.problem(self.attempt.scores, timed=True),
            scores=self.attempt.scores,
            errors=tuple(map(library.errors, range(len(library.layers)))),
            constraints=goals.constraints,
            measured=self.attempt.choice.measured,
            tried=self.attempt.choice.tried,
            workload=workload if named else None,
            corrections=self.chooser.priced.corrections.get(scenario, {}),
            run=description,
            seconds=self._seconds() if named else {},
            by_text=self._by_text(),
        )

    def _by_text(self) -> dict[str, dict[str, float]]:
        """Returns the child's quality on each of several texts, and the text's share."""
        run, mix, found = self.opened.run, self.inputs.text, {}
        if not isinstance(mix, TextMix):
            return {}
        stage = self.chooser.steps.quality(self.attempt.choice.layout, self.child)
        for name, validation in run.text.by_text.items():
            own = replace(run, windows=replace(run.text, validation=validation))
            share = mix.shares[name] / sum(mix.shares.values())
            found[name] = {"share": share, **own.get(stage).to_dict()["child"]}
        return found

    def _seconds(self) -> dict[str, dict[str, dict[str, float]]]:
        """Returns the seconds of parent and child in each scenario: measured, else predicted."""
        costs = self.chooser.goals.costs
        found: dict[str, dict[str, dict[str, float]]] = {}
        layouts = {
            "parent": Layout.parent(self.chooser.goals.space.shape),
            "child": self.attempt.choice.layout,
        }
        for name, scenario in self.opened.workload.scenarios.items():
            if not set(PHASES) <= set(costs.resources):
                continue
            timed = self.attempt.seconds.get(scenario, {})
            found[name] = {}
            for who, layout in layouts.items():
                known = {**layout_cost(costs, layout, scenario), **timed.get(who, {})}
                found[name][who] = {phase: float(known[phase]) for phase in PHASES}
        return found


def predicted_of(goals: Goals, scores: Scores, layout: Layout, scenario: Scenario) -> Comparison:
    """Returns what costs and scores say of a parent and its child.

    Args:
        goals: The goals, which have the costs and the space.
        scores: The scores; their sum is the child's KL.
        layout: The child's layout.
        scenario: What is run.
    """
    parent = Layout.parent(goals.space.shape)
    values = {
        who: {**layout_cost(goals.costs, each, scenario), "kl": kl}
        for who, each, kl in (("parent", parent, 0.0), ("child", layout, scores.total(layout)))
    }
    return Comparison.from_dict(values, scenario)
