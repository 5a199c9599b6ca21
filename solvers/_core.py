"""Solve with the few columns that are worth their price, and prove that no other is needed."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np

from solvers._columns import BoolArray, Columns, FloatArray
from solvers._highs import row_prices, run_highs
from solvers._model import Inequality, Program
from solvers._settings import BackendResult, Ending, Settings

# So many columns are tried first, times the groups. Of 36 random problems with two to four limits,
# none needed more to prove its optimum.
_PER_GROUP = 3

# Prices and sums are exact to about this share of the largest cost, which is about one.
_ROUNDING = 1e-9

_LEAST_SECONDS = 0.1

# HiGHS's searches for better choices by solving smaller programs gain little in one as small,
# unless its tree is large.
_CORE_OPTIONS = {"mip_heuristic_run_rins": False, "mip_heuristic_run_rens": False}
_MOST_NODES = 3000


def run_core(
    program: Program, columns: Columns, settings: Settings, start: tuple[int, ...] | None
) -> BackendResult:
    """Solve a program with HiGHS, on a few of its columns where that proves the optimum.

    The linear relaxation prices the rows. Its bound and a column's cost at these prices say what
    any choice with that column scores at least; what is no better than the best choice among the
    cheapest columns is left out (the core of a knapsack; Balas and Zemel, Operations Research 28,
    1980). If others remain, they are solved for as well.

    Args:
        program: The program.
        columns: The columns of the problem behind it.
        settings: How to run.
        start: A selection to begin from.

    Returns:
        How the run ended.

    Raises:
        SolverError: If HiGHS failed, or refused an option.
    """
    count = _PER_GROUP * columns.groups
    if not program.whole.all() or len(program.columns) <= 2 * count:
        return run_highs(program, columns, settings, start)
    limit = settings.time_limit
    deadline = math.inf if limit is None else time.perf_counter() + limit
    prices = row_prices(program, settings)
    if prices is None:
        return run_highs(program, columns, settings, start)
    bound, over = priced(program, prices)
    own = over[: len(program.columns)]
    core = own <= np.partition(own, count)[count]
    if start is not None:
        core |= np.isin(program.columns, start)
    options = {"mip_max_nodes": _MOST_NODES, **_CORE_OPTIONS, **settings.options}
    quick = dataclasses.replace(settings, options=options)
    first = run_highs(restricted(program, core), columns, _until(quick, deadline), start)
    if first.selection is None:
        return run_highs(program, columns, _until(settings, deadline), start)
    picked = np.isin(program.columns, first.selection)
    value = float(program.cost[: len(picked)][picked].sum())
    needed = picked | (own <= value - bound + _ROUNDING * (1.0 + abs(value)))
    stopped, proved = first.ending is Ending.STOPPED, not np.any(needed & ~core)
    if proved and not stopped:
        return first
    if stopped and (time.perf_counter() >= deadline or "mip_max_nodes" in settings.options):
        return first if proved else dataclasses.replace(first, bound=bound)
    smaller, rest = restricted(program, needed), _until(settings, deadline)
    second = run_highs(smaller, columns, rest, first.selection)
    if second.selection is None:
        return BackendResult(ending=Ending.STOPPED, bound=bound, selection=first.selection)
    return second


def priced(program: Program, prices: FloatArray) -> tuple[float, FloatArray]:
    """Bound a program from below at prices of its rows.

    Args:
        program: The program, all of whose variables are bounded.
        prices: A price of each row; one of the wrong sign counts as zero.

    Returns:
        What every solution costs at least, and how much more it costs at least if it has a
        variable at one.
    """
    total, cost = [], program.cost.copy()
    for price, row in zip(prices.tolist(), program.rows, strict=True):
        side = row.lower if price > 0.0 else row.upper
        if price and math.isfinite(side):
            cost[row.at] -= price * row.coefficients
            total.append(price * side)
    total += (np.minimum(cost, 0.0) * program.most).tolist()
    return math.fsum(total), np.maximum(cost, 0.0)


def restricted(program: Program, kept: BoolArray) -> Program:
    """Leave columns out of a program.

    Args:
        program: The program.
        kept: Mask of its columns; further variables all stay.

    Returns:
        The program of the others.
    """
    further = np.ones(len(program.cost) - len(kept), dtype=bool)
    mask = np.concatenate([kept, further])
    place = np.cumsum(mask) - 1
    rows = []
    for row in program.rows:
        there = mask[row.at]
        at = place[row.at[there]]
        rows.append(
            Inequality(
                at=at, coefficients=row.coefficients[there], lower=row.lower, upper=row.upper
            )
        )
    return dataclasses.replace(
        program,
        columns=program.columns[kept],
        cost=program.cost[mask],
        whole=program.whole[mask],
        most=program.most[mask],
        rows=tuple(rows),
    )


def _until(settings: Settings, deadline: float) -> Settings:
    if math.isinf(deadline):
        return settings
    left = max(deadline - time.perf_counter(), _LEAST_SECONDS)
    return dataclasses.replace(settings, time_limit=left)
