"""Seconds per answer: what a child gains if its answers have another length than its parent's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from puzzle.choice.goals import NOISE
from puzzle.errors import DataError
from puzzle.evaluation.answers import Answers
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
        parent_accuracy: The share of the parent's answers that are right, over all tasks.
        child_accuracy: That of the child's.
    """

    share: float
    parent_tokens: float
    child_tokens: float
    parent: float
    child: float
    alike: float
    parent_accuracy: float
    child_accuracy: float

    @property
    def parent_rate(self) -> float:
        """Right answers per second of the parent, one request after another."""
        return self.parent_accuracy / self.parent

    @property
    def child_rate(self) -> float:
        """Right answers per second of the child."""
        return self.child_accuracy / self.child


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSeconds:
    """What an answer takes of parent and child, each as long as its own answers are.

    Args:
        modes: By mode of thinking, as scenarios of the search are named.
        workload: The scenarios with the child's tokens.
        budgets: The same under budgets of thought, by their tokens and by mode.

    Example:
        >>> print(result.answer_seconds(evaluation).verdict())  # doctest: +SKIP
        Nothing is gained: for answers of one length the child is 1.30 times as fast, and its own
        are 1.30 times as long.
    """

    modes: Mapping[str, ModeSeconds]
    workload: Workload
    budgets: Mapping[int, Mapping[str, ModeSeconds]] = field(default_factory=dict)

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
        return {
            **totals,
            "inflation": self.inflation,
            "modes": _plain(self.modes),
            "budgets": {tokens: _plain(modes) for tokens, modes in self.budgets.items()},
        }


def _plain(modes: Mapping[str, ModeSeconds]) -> dict[str, dict[str, float]]:
    return {
        name: {**asdict(mode), "parent_rate": mode.parent_rate, "child_rate": mode.child_rate}
        for name, mode in modes.items()
    }


def answer_seconds(
    record: SearchRecord, evaluation: Evaluation, budgets: Mapping[int, Evaluation]
) -> AnswerSeconds:
    """Returns what answers take, by the search's costs and the lengths that were measured.

    Seconds of a scenario's decoding are taken as proportional to the tokens.

    Args:
        record: A search whose scenarios are named after the modes, as `answer_workload` names
            them.
        evaluation: Answers of the child and its parent in those modes.
        budgets: The same under budgets of thought, by their tokens.

    Raises:
        DataError: The search has no such scenarios, or the evaluation no such answers.
    """
    evidence = record.evidence
    if evidence is None or evidence.workload is None or not evidence.seconds:
        raise DataError(
            "the search has no scenario for each mode; give scenario=answer_workload(...)"
        )
    workload = evidence.workload
    modes = _modes(workload, evidence.seconds, evaluation)
    own = {
        name: (
            replace(scenario, generated_tokens=max(1, round(modes[name].child_tokens))),
            workload.weights[name],
        )
        for name, scenario in workload.scenarios.items()
    }
    limited = {
        tokens: _modes(workload, evidence.seconds, budgets[tokens]) for tokens in sorted(budgets)
    }
    return AnswerSeconds(modes=modes, workload=Workload.of(own), budgets=limited)


def _modes(
    workload: Workload, seconds: Mapping[str, Any], evaluation: Evaluation
) -> dict[str, ModeSeconds]:
    modes = {}
    for name, scenario in workload.scenarios.items():
        found = {who: _answers(evaluation, who, name) for who in ("parent", "child")}
        tokens = {who: _median(each) for who, each in found.items()}
        phases = seconds[name]
        modes[name] = ModeSeconds(
            share=workload.weights[name],
            parent_tokens=tokens["parent"],
            child_tokens=tokens["child"],
            parent=_seconds_of(phases["parent"], tokens["parent"], scenario),
            child=_seconds_of(phases["child"], tokens["child"], scenario),
            alike=_seconds_of(phases["child"], tokens["parent"], scenario),
            parent_accuracy=_accuracy(found["parent"]),
            child_accuracy=_accuracy(found["child"]),
        )
    return modes


def _seconds_of(phases: Mapping[str, float], tokens: float, scenario: Scenario) -> float:
    """Returns the seconds of one of the scenario's answers, were it so long."""
    decode = phases["decode_seconds"] * tokens / scenario.generated_tokens
    return (phases["prefill_seconds"] + decode) / scenario.batch


def _answers(evaluation: Evaluation, who: str, mode: str) -> list[Answers]:
    answers = evaluation.answers.get(who, {})
    found = [each for (_, own), each in answers.items() if own == mode]
    if not found:
        raise DataError(
            f"there are no answers of the {who} with thinking {mode!r}; evaluate child and parent "
            'with an AnswerTask and thinking="both", under scenarios named "on" and "off"'
        )
    return found


def _median(answers: Sequence[Answers]) -> float:
    """Returns the median tokens of answers, with the one that ends each."""
    return float(torch.cat([each.tokens for each in answers]).quantile(0.5)) + 1


def _accuracy(answers: Sequence[Answers]) -> float:
    return float(torch.cat([each.right for each in answers]).mean())
