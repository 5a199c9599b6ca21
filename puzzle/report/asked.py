"""The constraints as they were asked for, as they turned out, and what more room would buy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from puzzle.limits.quantities import readable
from puzzle.limits.requirements import Requirement, requirements
from puzzle.limits.scenario import Scenario
from solvers import Sensitivity, SolverError, sensitivity

if TYPE_CHECKING:
    from puzzle.pipeline.result import SearchResult
    from puzzle.report.evidence import Evidence

SECONDS = 10.0
"""Most that one solve for a report may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One constraint and how it turned out, in its own units; "" where that is not known.

    Args:
        text: The constraint.
        predicted: The child's figure by the cost model.
        measured: The child's figure as it was measured.
        slack: How far inside the bound the prediction is, as a share of the bound.
        met: Whether the measurement is within the bound; None if it was not measured.
        more: What loosening the bound would buy; None where no solve told.
    """

    text: str
    predicted: str = ""
    measured: str = ""
    slack: float | None = None
    met: bool | None = None
    more: str | None = None

    @property
    def spare(self) -> str:
        """The slack in words."""
        if self.slack is None:
            return ""
        share = 100 * self.slack
        return f"{share:.0f} %" if abs(share) >= 10 else f"{share:.2g} %"


def asked(result: SearchResult, *, solve_again: bool = False) -> tuple[Asked, ...]:
    """Returns how each constraint turned out.

    Args:
        result: A result with evidence; without, there is nothing to return.
        solve_again: Whether to find what more room would buy, which takes two solves for each.
    """
    evidence = result.evidence
    if evidence is None:
        return ()
    unit = "nats/token" if evidence.minimised == "kl" else evidence.minimised
    whole = {"predicted": totals(result, "parent"), "measured": result.measured["parent"]}
    own = {"predicted": totals(result, "child"), "measured": result.measured["child"]}
    gains = _gains(evidence, result) if solve_again else {}
    return tuple(
        _asked(requirement, own, whole, gains, result.scenario, unit)
        for requirement in requirements(evidence.constraints, evidence.workload or result.scenario)
    )


def totals(result: SearchResult, who: str) -> dict[str, float]:
    """Returns the predicted totals of "parent" or "child", the program's own columns included."""
    found = dict(result.predicted[who])
    if result.evidence is not None:
        problem = result.evidence.problem
        blocks = [block.label for block in result.layout.blocks]
        labels = [row[0] for row in problem.groups] if who == "parent" else blocks
        pairs = list(zip(problem.groups, labels, strict=True))
        # A layer that is fused with others is none of its group's options.
        if all(label in row for row, label in pairs):
            found = {**problem.evaluate([row.index(label) for row, label in pairs])[1], **found}
    return found


def _gains(evidence: Evidence, result: SearchResult) -> Mapping[str, Sensitivity]:
    try:
        found = sensitivity(
            evidence.problem,
            solution=evidence.own_solution(result.solution),
            step=0.05,
            time_limit=SECONDS,
        )
    except SolverError:
        return {}
    return {each.limit.text: each for each in found}


def _asked(
    requirement: Requirement,
    own: Mapping[str, Mapping[str, float]],
    whole: Mapping[str, Mapping[str, float]],
    gains: Mapping[str, Sensitivity],
    scenario: Scenario,
    unit: str,
) -> Asked:
    constraint, name = requirement.constraint, requirement.column.name
    row = Asked(text=str(constraint))
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
    met = requirement.limit({name: parent}).slack(total) >= -1e-9 * abs(total)
    return replace(row, measured=_amount(requirement, total, parent), met=met)


def _total(requirement: Requirement, found: Mapping[str, float]) -> float | None:
    column = requirement.column
    if column.name in found:
        return found[column.name]
    if any(term.resource not in found for term in column.terms):
        return None
    return sum(term.factor * found[term.resource] for term in column.terms)


def _amount(requirement: Requirement, total: float, parent: float | None) -> str:
    constraint = requirement.constraint
    value = requirement.amount(total) if total > 0 else 0.0
    if constraint.relative and parent:
        return f"{value / requirement.amount(parent):.3g}x"
    return readable(constraint.quantity, value, constraint.relation) if value > 0 else "0"


def _bought(requirement: Requirement, found: Sensitivity, parent: float | None, unit: str) -> str:
    at = _amount(requirement, found.limit.moved(found.step).bound, parent)
    text = f"at {at}: " + (f"{found.gain:.3g} {unit} less" if found.gain > 0 else "nothing")
    if found.next_budget is not None:
        text += f"; the next better layout is at {_amount(requirement, found.next_budget, parent)}"
    return text if found.certain else f"{text} (not proved)"
