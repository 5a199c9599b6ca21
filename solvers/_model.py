"""The matrix handed to a solver: the problem, reduced, shifted and scaled to about one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from solvers._columns import BoolArray, Columns, FloatArray, IntArray
from solvers._ranges import excess
from solvers._reduce import undominated
from solvers.limits import Limit
from solvers.problem import ChoiceProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Inequality:
    """``lower <= coefficients . x[at] <= upper``."""

    at: IntArray
    coefficients: FloatArray
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """Minimise ``cost . x`` over rows; the real objective is ``base + scale * cost . x``.

    The first variables stand for `columns` of the problem, 0 or 1 each. After them come one for
    each kind of option that may be mixed, and the stretch of the limits where it is minimised.
    """

    columns: IntArray
    cost: FloatArray
    whole: BoolArray
    most: FloatArray
    rows: tuple[Inequality, ...]
    base: float
    scale: float

    def sparse(self) -> tuple[IntArray, IntArray, FloatArray]:
        """The rows as one compressed sparse matrix: starts, variables, values."""
        starts = np.cumsum([0, *(len(row.at) for row in self.rows)], dtype=np.intp)
        at = np.concatenate([row.at for row in self.rows])
        return starts, at, np.concatenate([row.coefficients for row in self.rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """What is changed in a problem for one run.

    Args:
        shift_score: Whether scores count from the least of each group.
        margins: How much to tighten some one-sided limits, by their text.
        cuts: Selections that must not come back.
        stretch: Minimise the number by which all limits are loosened, in these units, by text.
        usable: Mask of the columns in use, None for all that the pins allow.
    """

    usable: BoolArray | None = None
    shift_score: bool = True
    margins: Mapping[str, float] = field(default_factory=dict)
    cuts: Sequence[tuple[int, ...]] = ()
    stretch: Mapping[str, float] = field(default_factory=dict)


def one_sided(problem: ChoiceProblem) -> tuple[Limit, ...]:
    """List the limits of a problem as one-sided limits.

    Args:
        problem: The problem.

    Returns:
        One limit for each bound, in order.
    """
    return tuple(side for limit in problem.limits for side in limit.sides())


def build_program(problem: ChoiceProblem, variation: Variation) -> Program:
    """Bring a problem to units in which the tolerances of solvers make sense.

    Args:
        problem: The problem.
        variation: What to change in it.

    Returns:
        The program.
    """
    # Cut selections break a limit, so no dominated option is needed to get around them.
    reducible = problem.distinct is None and not variation.stretch
    usable = problem.columns.allowed if variation.usable is None else variation.usable
    if reducible:
        usable = undominated(problem, usable)
    columns = np.flatnonzero(usable)
    shifted = excess(problem.columns, problem.columns.score, usable)
    if variation.shift_score and shifted is not None:
        cost, base = shifted.over[columns], shifted.least
    else:
        cost, base = problem.columns.score[columns], 0.0
    scale = power_of_two(cost)
    cost = cost / scale
    rows = _cover_rows(problem.columns, columns)
    kinds = _kind_rows(problem, columns)
    extra = 1 + max((int(row.at[-1]) for row in kinds), default=len(columns) - 1)
    rows += kinds
    rows += _limit_rows(problem, columns, variation, extra)
    rows += [_cut_row(cut, columns) for cut in variation.cuts]
    added = extra - len(columns)
    cost = np.concatenate([cost, np.zeros(added)])
    whole, most = np.ones(extra, dtype=bool), np.ones(extra)
    if variation.stretch:
        cost, base, scale = np.append(np.zeros(extra), 1.0), 0.0, 1.0
        whole, most = np.append(whole, False), np.append(most, np.inf)
    return Program(
        columns=columns,
        cost=cost,
        whole=whole,
        most=most,
        rows=tuple(rows),
        base=base,
        scale=scale,
    )


def power_of_two(values: npt.ArrayLike) -> float:
    """Find the power of two just above the largest size; dividing by it rounds nothing."""
    largest = float(np.abs(values).max())
    return math.ldexp(1.0, math.frexp(largest)[1]) if largest > 0.0 else 1.0


def _cover_rows(all_columns: Columns, columns: IntArray) -> list[Inequality]:
    lengths = all_columns.lengths[columns]
    variables = np.repeat(np.arange(len(columns)), lengths)
    steps = np.arange(len(variables)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    groups = np.repeat(all_columns.first[columns], lengths) + steps
    order = np.argsort(groups, kind="stable")
    parts = np.split(variables[order], np.searchsorted(groups[order], range(1, all_columns.groups)))
    return [Inequality(at=at, coefficients=np.ones(len(at)), lower=1.0, upper=1.0) for at in parts]


def _kind_rows(problem: ChoiceProblem, columns: IntArray) -> list[Inequality]:
    """One variable for each kind that a bound counts: no option without its kind, few kinds."""
    rows, next_variable = [], len(columns)
    pair = np.array([1.0, -1.0])
    for bound, kinds in zip(problem.distinct_bounds, problem.columns.kinds, strict=True):
        codes = kinds[columns]
        used = np.unique(codes[codes >= 0])
        if not used.size:
            continue
        variables = next_variable + np.arange(len(used))
        rows += [
            Inequality(
                at=np.array([at, int(variables[np.searchsorted(used, codes[at])])]),
                coefficients=pair,
                lower=-np.inf,
                upper=0.0,
            )
            for at in np.flatnonzero(codes >= 0)
        ]
        few, ones = float(bound.at_most), np.ones(len(used))
        rows.append(Inequality(at=variables, coefficients=ones, lower=-np.inf, upper=few))
        next_variable += len(used)
    return rows


def _limit_rows(
    problem: ChoiceProblem, columns: IntArray, variation: Variation, stretch_at: int
) -> list[Inequality]:
    rows = []
    for side in one_sided(problem):
        unit = variation.stretch.get(side.text, 0.0)
        margin = variation.margins.get(side.text, 0.0)
        coefficients, upper = _limit_row(problem, columns, side, margin, exact=not unit)
        # A limit that every choice meets is no row; one that none meets is checked before solving.
        if not unit and not np.any(coefficients):
            continue
        size = power_of_two([*coefficients, unit])
        values, at = coefficients / size, np.arange(len(columns))
        if unit:
            values, at = np.append(values, -unit / size), np.append(at, stretch_at)
        used = values != 0.0
        rows.append(
            Inequality(at=at[used], coefficients=values[used], lower=-np.inf, upper=upper / size)
        )
    return rows


def _limit_row(
    problem: ChoiceProblem, columns: IntArray, side: Limit, margin: float, *, exact: bool
) -> tuple[FloatArray, float]:
    """Write a one-sided limit as ``coefficients . x <= upper`` with the constant part moved.

    If `exact`, what a candidate gives beyond all that is needed is cut away, which changes nothing
    but the size of the numbers.
    """
    everything = problem.columns
    usable = np.zeros(len(everything.first), dtype=bool)
    usable[columns] = True
    sign = 1.0 if side.at_most is not None else -1.0
    offset = problem.offsets.get(side.resource, 0.0)
    bound: tuple[float, ...] = (sign * side.bound, -sign * offset, -margin)
    values = sign * everything.resources[side.resource]
    spare = excess(everything, -values, usable)
    if exact and spare is not None:
        needed = -math.fsum([*spare.terms, *bound])
        if needed <= 0.0:
            return np.zeros(len(columns)), 0.0
        if np.any(spare.over[columns] > needed):
            values, bound = -np.minimum(spare.over, needed), (-needed,)
    use = excess(everything, values, usable)
    if use is None:
        return values[columns], math.fsum(bound)
    # A tenth of what the check afterwards allows, so that a choice exactly on the limit is not
    # lost to rounding: CBC gets its numbers as 12 digits of text, and is strict about them.
    room = 0.1 * problem.tolerance(side.resource)
    return use.over[columns], use.room(*bound, room)


def _cut_row(cut: tuple[int, ...], columns: IntArray) -> Inequality:
    at = np.flatnonzero(np.isin(columns, cut))
    return Inequality(at=at, coefficients=np.ones(len(at)), lower=-np.inf, upper=len(cut) - 1.0)
