"""Seconds per answer: what a child gains if its answers have another length than its parent's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from puzzle.choice.goals import NOISE
from puzzle.errors import DataError
from puzzle.evaluation.evaluating import Evaluation
from puzzle.limits.constraints import Constraint, parse_constraint
from puzzle.limits.scenario import Scenario, Workload
from puzzle.report.record import SearchRecord

ANSWER = "seconds_per_answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSeconds:
    """The answers of one mode.

    Args:
        share: Its share of the requests.
        parent_tokens: Median tokens of the parent's answers.
        child_tokens: Those of the child's.
        parent: Seconds of one of the parent's answers.
        child: Seconds of one of the child's.
        alike: What the child would take for an answer as long as the parent's.
    """

    share: float
    parent_tokens: float
    child_tokens: float
    parent: float
    child: float
    alike: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSeconds:
    """What an answer takes of parent and child, each as long as its own answers are.

    Args:
        modes: By mode of thinking, as scenarios of the search are named.
        workload: The scenarios with the child's tokens.

    Example:
        >>> print(result.answer_seconds(evaluation).verdict())  # doctest: +SKIP
        Nothing is gained: for answers of one length the child is 1.30 times as fast, and its own
        are 1.30 times as long.
    """

    modes: Mapping[str, ModeSeconds]
    workload: Workload

    @property
    def parent(self) -> float:
        """Seconds per answer of the parent, over all requests."""
        return self._mean("parent")

    @property
    def child(self) -> float:
        """Seconds per answer of the child."""
        return self._mean("child")

    @property
    def gain(self) -> float:
        """How many answers the child gives while its parent gives one."""
        return self.parent / self.child

    @property
    def alike(self) -> float:
        """The same, were its answers as long as the parent's."""
        return self.parent / self._mean("alike")

    @property
    def inflation(self) -> float:
        """Tokens per answer of the child over those of its parent."""
        return self._mean("child_tokens") / self._mean("parent_tokens")

    def _mean(self, name: str) -> float:
        total = math.fsum(mode.share * getattr(mode, name) for mode in self.modes.values())
        return total / math.fsum(mode.share for mode in self.modes.values())

    def verdict(self) -> str:
        """Returns one sentence: what is gained per answer, and what longer answers take of it."""
        length = f"its own are {self.inflation:.2f} times as long"
        speed = f"for answers of one length the child is {self.alike:.2f} times as fast"
        if self.gain > 1 + NOISE:
            share = f"{1 / self.gain:.2f} times the parent's seconds"
            return f"An answer takes {share}: {speed}, and {length}."
        if self.gain >= 1 - NOISE:
            return f"Nothing is gained: {speed}, and {length}."
        return (
            f"It is a loss: {speed}, but {length}, so that one takes {1 / self.gain:.2f} times the "
            "parent's seconds."
        )

    def again(self, constraint: str | Constraint) -> dict[str, Any]:
        """Returns the arguments of a search with the lengths of this child's own answers.

        Args:
            constraint: On `seconds_per_answer`, such as "seconds_per_answer <= 0.6x". A multiple
                stays that of the parent's seconds for its own, shorter or longer, answers.

        Returns:
            `scenario` and `constraints` for `puzzle.search`.

        Raises:
            DataError: It is on something else.
        """
        given = constraint if isinstance(constraint, Constraint) else parse_constraint(constraint)
        if given.resource != ANSWER:
            raise DataError(f"'{given}' is no constraint on {ANSWER}; give one on that")
        if given.relative:
            given = replace(given, value=given.value * self.parent, relative=False)
        return {"scenario": self.workload, "constraints": [given]}

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        totals = {name: getattr(self, name) for name in ("parent", "child", "gain", "alike")}
        modes = {name: asdict(mode) for name, mode in self.modes.items()}
        return {**totals, "inflation": self.inflation, "modes": modes}


def answer_seconds(record: SearchRecord, evaluation: Evaluation) -> AnswerSeconds:
    """Returns what answers take, by the search's costs and the lengths that were measured.

    Seconds of a scenario's decoding are taken as proportional to the tokens.

    Args:
        record: A search whose scenarios are named after the modes, as `answer_workload` names
            them.
        evaluation: Answers of the child and its parent in those modes.

    Raises:
        DataError: The search has no such scenarios, or the evaluation no such answers.
    """
    evidence = record.evidence
    if evidence is None or evidence.workload is None or not evidence.seconds:
        raise DataError(
            "the search has no scenario for each mode; give scenario=answer_workload(...)"
        )
    modes, own = {}, {}
    for name, scenario in evidence.workload.scenarios.items():
        tokens = {who: _median(evaluation, who, name) for who in ("parent", "child")}
        phases = evidence.seconds[name]

        modes[name] = ModeSeconds(
            share=evidence.workload.weights[name],
            parent_tokens=tokens["parent"],
            child_tokens=tokens["child"],
            parent=_seconds_of(phases["parent"], tokens["parent"], scenario),
            child=_seconds_of(phases["child"], tokens["child"], scenario),
            alike=_seconds_of(phases["child"], tokens["parent"], scenario),
        )
        longer = replace(scenario, generated_tokens=max(1, round(tokens["child"])))
        own[name] = (longer, evidence.workload.weights[name])
    return AnswerSeconds(modes=modes, workload=Workload.of(own))


def _seconds_of(phases: Mapping[str, float], tokens: float, scenario: Scenario) -> float:
    """Returns the seconds of one of the scenario's answers, were it so long."""
    decode = phases["decode_seconds"] * tokens / scenario.generated_tokens
    return (phases["prefill_seconds"] + decode) / scenario.batch


def _median(evaluation: Evaluation, who: str, mode: str) -> float:
    """Returns the median tokens of a model's answers in a mode, with the one that ends each."""
    answers = evaluation.answers.get(who, {})
    found = [each.tokens for (_, own), each in answers.items() if own == mode]
    if not found:
        raise DataError(
            f"there are no answers of the {who} with thinking {mode!r}; evaluate child and parent "
            'with an AnswerTask and thinking="both", under scenarios named "on" and "off"'
        )
    return float(torch.cat(found).quantile(0.5)) + 1
