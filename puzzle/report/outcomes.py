"""How each constraint turned out, and what more room would buy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from puzzle.choice.goals import NOISE
from puzzle.limits.quantities import readable
from puzzle.limits.requirements import Requirement, requirements
from puzzle.limits.scenario import Scenario
from puzzle.report.evidence import Evidence
from puzzle.report.record import SearchRecord
from solvers import Sensitivity, SolverError, sensitivity

SECONDS = 10.0
"""Most that one solve for a report may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintOutcome:
    """One constraint and how it turned out, in its own units; "" if that is not known.

    Args:
        text: The constraint.
        predicted: The child's figure by the cost model.
        measured: The child's figure as it was measured.
        slack: How far inside the bound the prediction is, as a share of the bound.
        met: Whether the measurement is within the bound, as the search judges it: time is met if
            it is missed by no more than it differs when it is measured again; None if it was not
            measured.
        nearly: Whether it is met in that sense alone.
        more: What loosening the bound would buy; None if it was not solved for.
    """

    text: str
    predicted: str = ""
    measured: str = ""
    slack: float | None = None
    met: bool | None = None
    nearly: bool = False
    more: str | None = None

    @property
    def spare(self) -> str:
        """The slack in words."""
        if self.slack is None:
            return ""
        share = 100 * self.slack
        return f"{share:.0f} %" if abs(share) >= 10 else f"{share:.2g} %"


Totals = Mapping[str, Mapping[str, float]]


def constraint_outcomes(
    record: SearchRecord, *, solve_again: bool = False
) -> tuple[ConstraintOutcome, ...]:
    """Returns how each constraint turned out.

    Args:
        record: A record with evidence; without, there is nothing to return.
        solve_again: Whether to find what more room would buy, which takes two solves for each.
    """
    evidence = record.evidence
    if evidence is None:
        return ()
    unit = "nats/token" if evidence.minimised == "kl" else evidence.minimised
    parent, child = (
        {"predicted": predicted_totals(record, who), "measured": measured.to_dict()}
        for who, measured in (("parent", record.measured.parent), ("child", record.measured.child))
    )
    gains = _gains(evidence, record) if solve_again else {}
    return tuple(
        _outcome(requirement, child, parent, gains, record.scenario, unit)
        for requirement in requirements(evidence.constraints, evidence.workload or record.scenario)
    )


def predicted_totals(record: SearchRecord, who: str) -> dict[str, float]:
    """Returns the predicted totals of "parent" or "child", the program's own columns included."""
    whole = record.predicted
    totals = (whole.parent if who == "parent" else whole.child).to_dict()
    if record.evidence is not None:
        problem = record.evidence.problem
        blocks = [block.label for block in record.layout.blocks]
        labels = [row[0] for row in problem.groups] if who == "parent" else blocks
        pairs = list(zip(problem.groups, labels, strict=True))
        # A layer that is fused with others is not among its group's options.
        if all(label in row for row, label in pairs):
            totals = {**problem.evaluate([row.index(label) for row, label in pairs])[1], **totals}
    return totals


def _gains(evidence: Evidence, record: SearchRecord) -> Mapping[str, Sensitivity]:
    try:
        each_limit = sensitivity(
            evidence.problem,
            solution=evidence.own_solution(record.solution),
            step=0.05,
            time_limit=SECONDS,
        )
    except SolverError:
        return {}
    return {each.limit.text: each for each in each_limit}


def _outcome(
    requirement: Requirement,
    own: Totals,
    whole: Totals,
    gains: Mapping[str, Sensitivity],
    scenario: Scenario,
    unit: str,
) -> ConstraintOutcome:
    constraint, name = requirement.constraint, requirement.column.name
    row = ConstraintOutcome(text=str(constraint))
    parents = {name: _total(requirement, whole["predicted"])}
    if (total := _total(requirement, own["predicted"])) is None or parents[name] is None:
        return row
    limit = requirement.limit({key: value for key, value in parents.items() if value})
    row = replace(
        row,
        predicted=_amount(requirement, total, parents[name]),
        slack=limit.slack(total) / abs(limit.bound) if limit.bound else None,
    )
    if limit.text in gains:
        row = replace(row, more=_bought(requirement, gains[limit.text], parents[name], unit))
    # Only the first scenario's measurements are kept, and none at another batch.
    plain = all(
        term.resource in own["measured"] and term.scenario == scenario
        for term in requirement.column.terms
    )
    if not plain or constraint.at:
        return row
    total, parent = (_total(requirement, part["measured"]) for part in (own, whole))
    if total is None or parent is None:
        return row
    timed = all(term.resource.endswith("seconds") for term in requirement.column.terms)
    limit = requirement.limit({name: parent})
    beyond = -limit.slack(total) / abs(limit.bound) if limit.bound else -limit.slack(total)
    return replace(
        row,
        measured=_amount(requirement, total, parent),
        met=beyond <= (NOISE if timed else 1e-9),
        nearly=timed and 1e-9 < beyond <= NOISE,
    )


def _total(requirement: Requirement, totals: Mapping[str, float]) -> float | None:
    column = requirement.column
    if column.name in totals:
        return totals[column.name]
    if any(term.resource not in totals for term in column.terms):
        return None
    return sum(term.factor * totals[term.resource] for term in column.terms)


def _amount(requirement: Requirement, total: float, parent: float | None) -> str:
    constraint = requirement.constraint
    value = requirement.amount(total) if total > 0 else 0.0
    if constraint.relative and parent:
        return f"{value / requirement.amount(parent):.4g}x"
    return readable(constraint.quantity, value, constraint.relation) if value > 0 else "0"


def _bought(requirement: Requirement, looser: Sensitivity, parent: float | None, unit: str) -> str:
    at = _amount(requirement, looser.limit.moved(looser.step).bound, parent)
    text = f"at {at}: " + (f"{looser.gain:.3g} {unit} less" if looser.gain > 0 else "nothing")
    if looser.next_budget is not None:
        text += f"; the next better layout is at {_amount(requirement, looser.next_budget, parent)}"
    return text if looser.certain else f"{text} (not proved)"
