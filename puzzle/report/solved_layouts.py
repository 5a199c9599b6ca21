"""Layouts that are best within budgets, solved beforehand: what the explorer shows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from puzzle.errors import DataError
from puzzle.report.outcomes import SECONDS, predicted_totals
from puzzle.report.record import SearchRecord
from search_space import Block, Layout, layout_svg
from solvers import ChoiceProblem, Limit, Solution, SolverError, frontier

# Budgets of each resource alone, and of each of two together.
ALONE, TOGETHER, GAP = 14, 6, 1e-3
DIGITS = 1000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SolvedLayout:
    """A layout, and what is predicted of it.

    Args:
        layout: The layout.
        kl: The sum of its blocks' scores, nats per token.
        shares: Its total of each resource over the parent's.
        chosen: Whether it is that of the search.
    """

    layout: Layout
    kl: float
    shares: dict[str, float]
    chosen: bool = False

    @property
    def constraints(self) -> str:
        """The constraints that a search is given to get it or a better one."""
        return ", ".join(_constraint(name, share) for name, share in self.shares.items())

    def to_dict(self) -> dict[str, Any]:
        """Returns what the page needs of it."""
        runs = ", ".join(f"{layers}: {label}" for layers, label in self.layout.runs())
        return {
            "kl": self.kl,
            "shares": self.shares,
            "chosen": self.chosen,
            "constraints": self.constraints,
            "words": runs,
            "parameters": self.layout.parameters(),
            "picture": layout_svg(self.layout, width=560),
        }


def solved_layouts(record: SearchRecord) -> tuple[SolvedLayout, ...]:
    """Returns layouts of least sum of scores for budgets of the program's resources.

    Each is the program's answer to some budgets, proved within a thousandth; none is invented
    between two others. The first is that of the search.

    Raises:
        DataError: The record has no evidence, or no resource that can be bounded.
    """
    if record.evidence is None:
        raise DataError(
            "the result holds no evidence, and so no program to solve again; give the directory "
            "that result.save() wrote"
        )
    problem = record.evidence.kl_problem()
    parent = predicted_totals(record, "parent")
    names = [name for name in problem.resources if _varies(problem, name, parent)]
    if not names:
        raise DataError("no resource of the program differs between layouts; constrain one")
    solved = {}
    for solution in (record.solution, *_solutions(problem, names)):
        labels = record.layout.blocks if solution is record.solution else solution.labels
        blocks = tuple(
            each if isinstance(each, Block) else Block.from_label(each) for each in labels
        )
        layout = Layout(record.layout.shape, blocks)
        if layout in solved:
            continue
        score, used = _totals(problem, layout)
        solved[layout] = SolvedLayout(
            layout=layout,
            kl=score,
            shares={name: used[name] / parent[name] for name in names},
            chosen=solution is record.solution,
        )
    return tuple(solved.values())


def _varies(problem: ChoiceProblem, name: str, parent: dict[str, float]) -> bool:
    least, most = problem.with_limits(()).bounds(name)
    return parent.get(name, 0.0) > 0 and most - least > problem.tolerance(name)


def _solutions(problem: ChoiceProblem, names: list[str]) -> Iterator[Solution]:
    free = problem.with_limits(())
    for name in names:
        yield from _sweep(free, name, ALONE)
    for one, other in pairwise(names):
        least, most = free.bounds(one)
        for budget in np.linspace(least, most, TOGETHER + 1)[1:-1]:
            yield from _sweep(free.with_limits((Limit(one, at_most=budget),)), other, TOGETHER)


def _sweep(problem: ChoiceProblem, name: str, points: int) -> tuple[Solution, ...]:
    try:
        return frontier(problem, name, points, gap=GAP, time_limit=SECONDS)
    except SolverError:
        return ()


def _totals(problem: ChoiceProblem, layout: Layout) -> tuple[float, dict[str, float]]:
    pairs = zip(problem.groups, layout.blocks, strict=True)
    score, used = problem.evaluate([row.index(block.label) for row, block in pairs])
    return score, dict(used)


def _constraint(name: str, share: float) -> str:
    resource, bracket, scenario = name.partition("(")
    # Rounded to the side on which the layout keeps it.
    if resource == "seconds":
        quantity, amount = "throughput >=", math.floor(DIGITS / share) / DIGITS
    elif resource.endswith("_seconds"):
        quantity = f"{resource.removesuffix('_seconds')}_throughput >="
        amount = math.floor(DIGITS / share) / DIGITS
    else:
        quantity, amount = f"{resource} <=", math.ceil(DIGITS * share) / DIGITS
    where = f"({scenario}" if bracket else ""
    subject, relation = quantity.split(" ")
    return f"{subject}{where} {relation} {amount:g}x"
