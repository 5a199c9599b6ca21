"""Constraints over scenarios, as limits on columns of the program that the solver sums over blocks.

A column is one additive figure of a block: seconds in the chat scenario, memory at batch 32, or
the seconds of several scenarios by their weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from puzzle.errors import ConstraintError
from puzzle.limits.constraints import Constraint
from puzzle.limits.quantities import Quantity, find_quantity, readable, rounded
from puzzle.limits.scenario import Scenario, Workload, require_total
from solvers import Limit

__all__ = ["SCORE", "Column", "Requirement", "Term", "describe_infeasible", "limits", "objective"]
__all__ += ["requirements", "to_limit", "to_limits"]

SCORE = "kl"
"""The resource that comes from the scores and not from the cost model."""


@dataclass(frozen=True, slots=True)
class Term:
    """So many times one resource in one scenario."""

    factor: float
    resource: str
    scenario: Scenario


@dataclass(frozen=True, slots=True)
class Column:
    """One additive figure of every block: the sum of its terms."""

    name: str
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A constraint, in one scenario or over a mix, and the column it bounds.

    Args:
        constraint: What is required.
        column: What is summed over blocks.
        per: What a total is divided by to give the constraint's figure, or, for a rate, what is
            divided by the total.
    """

    constraint: Constraint
    column: Column
    per: float

    def amount(self, total: float) -> float:
        """Returns the constraint's own figure, such as tokens/s, for a total of the column."""
        return self.per / total if self.constraint.quantity.rate else total / self.per

    def limit(self, parent: Mapping[str, float]) -> Limit:
        """Returns the limit on the column that means the same as the constraint.

        Args:
            parent: The parent's total of each column; only relative constraints read it.

        Raises:
            ConstraintError: The parent's total is needed and missing, or not finite and positive.
        """
        constraint, value = self.constraint, self.constraint.value
        rate = constraint.quantity.rate
        if constraint.relative:
            base = require_total(parent, self.column.name, "The parent's totals")
            bound = base / value if rate else base * value
        else:
            bound = self.per / value if rate else value * self.per
        if not math.isfinite(bound):
            raise ConstraintError(
                f"'{constraint}' means {self.column.name} <= {bound}, which limits nothing: leave "
                "the constraint out or give a moderate value."
            )
        if constraint.relation == ">=" and not rate:
            return Limit(self.column.name, at_least=bound)
        return Limit(self.column.name, at_most=bound)

    def words(self, total: float, parent: Mapping[str, float]) -> str:
        """Returns a total of the column as the constraint is written: "1.2x", or "412 tokens/s".

        Args:
            total: The total.
            parent: The parent's total of each column.
        """
        amount, relation = self.amount(total), self.constraint.relation
        if not self.constraint.relative:
            return readable(self.constraint.quantity, amount, relation)
        return f"{rounded(amount / self.amount(parent[self.column.name]), relation)}x"

    def loosened(self, total: float, parent: Mapping[str, float]) -> str:
        """Returns the constraint with another amount: the one of a total of the column.

        Args:
            total: The total.
            parent: As for `words`.
        """
        own = self.constraint
        scenario = f" in scenario {own.scenario!r}" if own.scenario else ""
        return f"{own.resource} {own.relation} {self.words(total, parent)}{scenario}"

    def describe_infeasible(self, reached: float, parent: Mapping[str, float]) -> str:
        """Says how close the space comes, for the best total of the column and the parent's."""
        base = parent.get(self.column.name, 0.0)
        own = {self.constraint.resource: self.amount(base)} if base > 0 else {}
        best = self.amount(reached) if reached > 0 else 0.0
        return describe_infeasible(self.constraint, best, own)


def requirements(
    constraints: Iterable[Constraint], workload: Workload | Scenario
) -> tuple[Requirement, ...]:
    """Expands constraints over scenarios.

    Throughput, energy or FLOPs without a scenario are those of the whole workload, its scenarios
    weighted. Any other constraint without a scenario applies to each one.

    Args:
        constraints: What is required.
        workload: The scenarios.

    Returns:
        One requirement for each constraint and column.

    Raises:
        ConstraintError: A constraint names a scenario that does not exist.

    Example:
        >>> from puzzle.limits.constraints import parse_constraints
        >>> both = Workload.of({"chat": (Scenario(), 3.0), "long": (Scenario(batch=1), 1.0)})
        >>> wanted = parse_constraints("throughput >= 2x, latency(chat) <= 1 s, memory <= 80%")
        >>> [r.column.name for r in requirements(wanted, both)]
        ['seconds', 'seconds(chat)', 'memory(chat)', 'memory(long)']
    """
    whole = Workload.of(workload)
    expanded: list[Requirement] = []
    for constraint in constraints:
        if constraint.scenario is not None:
            groups = [{constraint.scenario: whole.find(constraint.scenario)}]
        elif constraint.quantity.mixes:
            groups = [dict(whole.scenarios)]
        else:
            groups = [{name: scenario} for name, scenario in whole.scenarios.items()]
        for group in groups:
            different: dict[str, Any] = dict(constraint.at)
            changed = {name: replace(s, **different) for name, s in group.items()}
            weights = {name: whole.weights[name] if len(group) > 1 else 1.0 for name in group}
            column = _column(constraint.resource, constraint.quantity, changed, weights)
            column = replace(column, name=column.name + constraint.where)
            per = sum(weights[name] * constraint.quantity.per(s) for name, s in changed.items())
            expanded.append(Requirement(constraint=constraint, column=column, per=per))
    return tuple(expanded)


def _column(
    name: str, quantity: Quantity, scenarios: Mapping[str, Scenario], weights: Mapping[str, float]
) -> Column:
    terms = tuple(
        Term(weights[label] * factor, resource, scenario)
        for label, scenario in scenarios.items()
        for factor, resource in quantity.terms
    )
    additive = quantity.terms[0][1] if len(quantity.terms) == 1 else name
    only = next(iter(scenarios)) if len(scenarios) == 1 else ""
    return Column(f"{additive}({only})" if only else additive, terms)


def limits(required: Iterable[Requirement], parent: Mapping[str, float]) -> tuple[Limit, ...]:
    """Returns the limits that requirements mean, one for each column and side.

    Args:
        required: The requirements.
        parent: The parent's total of each column.

    Returns:
        The limits; where two bound the same column (throughput and latency both bound seconds),
        only the tighter is kept.

    Raises:
        ConstraintError: As for `Requirement.limit`.
    """
    tightest: dict[tuple[str, bool], Limit] = {}
    for requirement in required:
        limit = requirement.limit(parent)
        upper = limit.at_least is None
        other = tightest.get((limit.resource, upper))
        tighter = other is None or (
            limit.bound < other.bound if upper else limit.bound > other.bound
        )
        if tighter:
            tightest[limit.resource, upper] = limit
    return tuple(tightest.values())


def objective(
    minimise: str,
    workload: Workload | Scenario,
    *,
    constraints: Iterable[Constraint] = (),
    resources: Mapping[str, str] | None = None,
) -> Column:
    """Returns the column to minimise in place of the KL.

    Args:
        minimise: A quantity that is better when smaller, "seconds", or a cost model's resource.
        workload: The scenarios; several are added up by their weights.
        constraints: What is required; the KL has to be limited, or the smallest model of all
            would be the answer.
        resources: Units of the resources that the cost model names, by name.

    Raises:
        ConstraintError: The resource is unknown or better when larger, or the KL has no limit.

    Example:
        >>> from puzzle.limits.constraints import parse_constraints
        >>> objective("memory", Scenario(), constraints=parse_constraints("kl <= 0.1")).name
        'memory'
    """
    own = {"seconds": "s", "prefill_seconds": "s", "decode_seconds": "s", **(resources or {})}
    quantity = find_quantity(minimise, own.get(minimise))
    if quantity.rate:
        raise ConstraintError(
            f"minimise={minimise!r}: {minimise} is better when larger; minimise 'latency' or "
            f"{quantity.terms[0][1]!r}, which comes to the same."
        )
    if minimise != SCORE and not any(c.resource == SCORE for c in constraints):
        raise ConstraintError(
            f"minimise={minimise!r} without a limit on the KL would remove all that can be "
            "removed; add a constraint such as 'kl <= 0.1' (nats per token)."
        )
    whole = Workload.of(workload)
    return _column(minimise, quantity, whole.scenarios, whole.weights)


def to_limit(constraint: Constraint, *, parent: Mapping[str, float], scenario: Scenario) -> Limit:
    """Convert a constraint to the limit on an additive resource that means the same.

    Args:
        constraint: What is required.
        parent: The parent's totals: prefill_seconds, decode_seconds, seconds, memory, kv_cache,
            parameters. Only relative constraints read it.
        scenario: What the seconds are for.

    Returns:
        An upper bound; throughput >= R becomes seconds <= batch * generated_tokens / R.

    Raises:
        ConstraintError: The parent's total is needed and missing, or not finite and positive.

    Example:
        >>> from puzzle.limits.constraints import parse_constraint
        >>> c = parse_constraint("throughput >= 2x")
        >>> to_limit(c, parent={"seconds": 3.0}, scenario=Scenario()).at_most
        1.5
    """
    (required,) = requirements([constraint], scenario)
    return required.limit(parent)


def to_limits(
    constraints: Iterable[Constraint], *, parent: Mapping[str, float], scenario: Scenario
) -> tuple[Limit, ...]:
    """Convert constraints in one scenario to limits; see `requirements` and `limits` for several.

    Args:
        constraints: What is required.
        parent: The parent's totals, as for `to_limit`.
        scenario: What the seconds are for.

    Returns:
        The limits, as `limits` returns them.

    Raises:
        ConstraintError: As for `to_limit`.
    """
    return limits(requirements(constraints, scenario), parent)


def describe_infeasible(
    constraint: Constraint, most_reachable: float, parent: Mapping[str, float]
) -> str:
    """Say that a constraint cannot be met and how close the search space comes.

    Args:
        constraint: What was required.
        most_reachable: The best value of the constraint's own resource in the space, absolute:
            tokens/s, seconds, bytes or a count. For an at-most resource that is the least.
        parent: The parent's values by resource, for the multiple of the parent's: its totals
            together with its `rate`. Without the resource only the absolute value is named.

    Returns:
        One sentence, its numbers rounded to the side that does not meet the constraint.

    Example:
        >>> from puzzle.limits.constraints import parse_constraint
        >>> c = parse_constraint("throughput >= 9x")
        >>> describe_infeasible(c, 412.0, {"throughput": 120.4})
        'throughput >= 9x cannot be reached: the most this space reaches is 3.42x (412 tokens/s)'
    """
    resource, relation = constraint.resource, constraint.relation
    if not (math.isfinite(most_reachable) and most_reachable > 0):
        return f"{constraint} cannot be reached: no value of {resource} can be reached at all"
    absolute = readable(constraint.quantity, most_reachable, relation)
    base = parent.get(resource, parent.get("seconds", 0.0) if resource == "latency" else 0.0)
    ratio = most_reachable / base if base > 0 else 0.0
    multiple = f"{rounded(ratio, relation)}x" if 0 < ratio < math.inf else ""
    first, second = (multiple, absolute) if constraint.relative else (absolute, multiple)
    figures = f"{first} ({second})" if first and second else absolute
    word = "most" if relation == ">=" else "least"
    return f"{constraint} cannot be reached: the {word} this space reaches is {figures}"
