"""Goals: what the child must achieve in its scenarios, as columns and limits of the program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from puzzle.choice.program import choice_problem
from puzzle.costs.checked import usable_blocks
from puzzle.costs.columns import check_columns, layout_columns
from puzzle.costs.correction import tighten
from puzzle.costs.protocol import CostModel
from puzzle.limits.constraints import Constraint, parse_constraint
from puzzle.limits.requirements import (
    SCORE,
    Column,
    Requirement,
    limits,
    objective,
    requirements,
)
from puzzle.limits.scenario import Scenario, Workload
from search_space import Block, Layout, SearchSpace
from search_space.plain_layouts import counted_choices
from solvers import ChoiceProblem, Distinct, InfeasibleError, Limit, solve

if TYPE_CHECKING:
    from puzzle.scoring.scores import Scores

# A measurement that misses a limit by no more than this share of it has met it: repeated
# measurements of one child differ by about as much.
NOISE = 0.01


class Goals:
    """Constraints and objective of a search, over the blocks that can run.

    Args:
        constraints: What is required.
        workload: The scenarios.
        costs: What blocks cost in them.
        space: The alternatives.
        minimise: "kl", or a resource that is minimised under a limit on the KL.

    Raises:
        ConstraintError: A constraint or the objective names something unknown.
        CostModelError: The cost model lacks a resource, or returns something that is not a number.
    """

    def __init__(
        self,
        constraints: Sequence[Constraint],
        workload: Workload,
        costs: CostModel,
        space: SearchSpace,
        minimise: str = SCORE,
    ) -> None:
        self.constraints, self.workload = tuple(constraints), workload
        self.costs, self.space = costs, space
        self.required = requirements(constraints, workload)
        self.goal = objective(
            minimise, workload, constraints=constraints, resources=costs.resources
        )
        self.bounded = tuple({r.column.name: r.column for r in self.required}.values())
        columns = self._with_goal(self.bounded)
        check_columns(costs, columns)
        scenarios = {term.scenario for column in columns for term in column.terms}
        self.rows = usable_blocks(costs, space, scenarios)
        self.parent = layout_columns(costs, Layout.parent(space.shape), columns)
        self.limits = limits(self.required, self.parent)

    def _with_goal(self, columns: tuple[Column, ...]) -> list[Column]:
        return list({column.name: column for column in (self.goal, *columns)}.values())

    def problem(
        self,
        scores: Scores | None = None,
        limits: Sequence[Limit] | None = None,
        *,
        timed: bool = False,
    ) -> ChoiceProblem:
        """Returns the program; without scores it only serves to see what can be reached.

        Args:
            scores: A score for every block.
            limits: Tightened limits; by default those of the constraints.
            timed: Whether seconds are a resource even if nothing bounds them.
        """
        shown = self.bounded or (self.goal,)
        if timed and "seconds" in self.costs.resources:
            speed = parse_constraint("throughput >= 1x")
            (column,) = (r.column for r in requirements([speed], self.workload))
            shown = tuple({each.name: each for each in (*shown, column)}.values())
        problem = choice_problem(
            self.costs, self.space.shape, self.rows, shown, goal=self.goal, scores=scores
        )
        problem = replace(problem, distinct=self._distinct())
        return problem.with_limits(self.limits if limits is None else limits)

    def _distinct(self) -> tuple[Distinct, ...] | None:
        if self.space.distinct is None:
            return None
        blocks = [block for row in self.rows for block in row]
        counts = counted_choices(self.space.shape, blocks)
        return tuple(Distinct(self.space.distinct, *count) for count in counts)

    def refuse_unreachable(self) -> None:
        """Raises InfeasibleError, in the user's units, before any long work."""
        problem = self.problem()
        lines = []
        for required in self.required:
            limit = required.limit(self.parent)
            least, most = problem.bounds(limit.resource)
            best = least if limit.at_most is not None else most
            if limit.slack(best) < -problem.tolerance(limit.resource):
                lines.append(required.describe_infeasible(best, self.parent))
        if lines:
            raise InfeasibleError(problem, "\n".join(lines))
        if problem.distinct is not None or len(problem.limits) > 1:
            try:
                solve(problem)  # each limit alone says nothing of all of them together
            except InfeasibleError as error:
                raise self.in_words(error) from error

    def in_words(self, error: InfeasibleError) -> InfeasibleError:
        """Returns an error of the program in the words and units of the constraints."""
        explanation, required = error.explanation, self._required_by_limit()
        if isinstance(explanation, str) or not required.keys() & set(explanation.conflict):
            return error

        def budgets(totals: Mapping[str, float]) -> list[str]:
            return [
                required[text].loosened(total, self.parent)
                for text, total in totals.items()
                if text in required
            ]

        words = {limit: str(each.constraint) for limit, each in required.items()}
        words |= {each.text: f"distinct={each.at_most}" for each in error.problem.distinct_bounds}
        texts = (words.get(text, text) for text in explanation.conflict)
        lines = [f"these cannot be met together: {' and '.join(dict.fromkeys(texts))}"]
        lines += [f"if all else stays, {each} would do" for each in budgets(explanation.alone)]
        if len(explanation.together) > 1 and explanation.share:
            lines.append(f"or all loosened a little: {', '.join(budgets(explanation.together))}")
        return InfeasibleError(error.problem, "\n".join(lines))

    def _required_by_limit(self) -> dict[str, Requirement]:
        return {each.limit(self.parent).text: each for each in self.required}

    def totals(self, layout: Layout, scores: Scores) -> dict[str, float]:
        """Returns a layout's predicted total of each bounded column."""

        def score(layer: int, block: Block) -> float:
            return scores.kl(layer, block.label)

        return layout_columns(self.costs, layout, self.bounded, score=score)

    def missed(
        self,
        predicted: Mapping[str, float],
        measured: Mapping[Scenario, Mapping[str, Mapping[str, float]]],
    ) -> tuple[Missed, ...]:
        """Returns the limits that a measured child misses by more than `NOISE`.

        Only limits on seconds that were measured can be missed; the others are counted exactly, or
        trusted as predicted. Seconds of a relative constraint are those of the child as a share of
        the parent's measured beside it: a slow spell of the machine affects both.

        Args:
            predicted: The child's predicted total of each bounded column.
            measured: Totals of "parent" and "child", by scenario.
        """
        totals = self.measured_totals(measured)
        missed = []
        for limit in self.limits:
            if limit.resource not in totals:
                continue
            total = totals[limit.resource]
            if limit.slack(total) >= -NOISE * abs(limit.bound):
                continue
            expected = predicted[limit.resource]
            error = total / expected - 1 if expected else None
            missed.append(Missed(limit=limit, error=error, text=self._missed_text(limit, total)))
        return tuple(missed)

    def measured_totals(
        self, measured: Mapping[Scenario, Mapping[str, Mapping[str, float]]]
    ) -> dict[str, float]:
        """Returns the child's totals of the bounded columns of seconds that were measured.

        Totals of relative constraints are the child's share of the measured parent's, times the
        parent's predicted total.

        Args:
            measured: Totals of "parent" and "child", by scenario.
        """
        totals = {}
        for column in self.bounded:
            timed = all(
                term.resource.endswith("seconds") and term.scenario in measured
                for term in column.terms
            )
            if not timed:
                continue
            both = {
                who: sum(t.factor * measured[t.scenario][who][t.resource] for t in column.terms)
                for who in ("parent", "child")
            }
            relative = all(
                r.constraint.relative for r in self.required if r.column.name == column.name
            )
            scale = self.parent[column.name] / both["parent"] if relative else 1.0
            totals[column.name] = both["child"] * scale
        return totals

    def _missed_text(self, limit: Limit, total: float) -> str:
        """Returns the constraint behind a limit, and what was measured instead."""
        required = next(
            r
            for r in self.required
            if r.column.name == limit.resource and r.limit(self.parent) == limit
        )
        return f"{required.constraint} (measured {required.words(total, self.parent)})"

    def tightened(self, limits: Sequence[Limit], missed: Iterable[Missed]) -> tuple[Limit, ...]:
        """Returns limits within which a layout keeps the constraints when it is measured.

        The prediction kept its limit, so its error is what broke it. The new bound excludes that
        prediction, so the same layout cannot come back.

        Args:
            limits: The limits of the attempt, in the order of `self.limits`.
            missed: What it missed.
        """
        errors = {each.limit: each.error for each in missed if each.error is not None}
        pairs = zip(self.limits, limits, strict=True)
        return tuple(tighten(own, errors[own]) if own in errors else now for own, now in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """A limit that a measured child misses.

    Args:
        limit: The limit that follows from the constraint.
        error: measured / predicted - 1; None where 0 was predicted, which no limit can correct.
        text: The constraint and what was measured, in the user's words.
    """

    limit: Limit
    error: float | None
    text: str
