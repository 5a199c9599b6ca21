"""HiGHS without anything in between: the matrix goes straight to ``highspy``."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from solvers._columns import Columns, FloatArray
from solvers._model import Program
from solvers._settings import FEASIBILITY, BackendResult, Ending, Settings, finish
from solvers.errors import SolverError


def run_highs(
    program: Program, columns: Columns, settings: Settings, start: tuple[int, ...] | None
) -> BackendResult:
    """Solve a program with HiGHS.

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
    import highspy

    quiet_highs(settings.threads)
    highs: Any = highspy.Highs()
    options = highs_options(settings)
    options |= {"threads": settings.threads, "time_limit": settings.time_limit}
    options |= {"mip_rel_gap": settings.gap, "mip_abs_gap": 0.0, **settings.options}
    for name, value in options.items():
        if value is not None and highs.setOptionValue(name, value) != highspy.HighsStatus.kOk:
            raise SolverError(f"HiGHS has no option {name!r} that can be {value!r}")
    highs.passModel(*_arrays(program, highspy.kHighsInf))
    if start is not None:
        at, values = _partial(program, columns, start)
        highs.setSolution(len(at), at, values)
    highs.run()
    if start is not None and _returns_another(highs, highspy, program):
        highs.clearSolver()
        highs.run()
    return _read(highs, highspy, program, columns)


def row_prices(program: Program, settings: Settings) -> FloatArray | None:
    """Solve a program's linear relaxation for the prices of its rows.

    Args:
        program: The program.
        settings: Threads and seconds.

    Returns:
        By how much the least cost rises with each row's bound; None if it was not solved.
    """
    import highspy

    quiet_highs(settings.threads)
    highs: Any = highspy.Highs()
    options = highs_options(settings)
    options |= {"threads": settings.threads, "time_limit": settings.time_limit}
    for name, value in options.items():
        if value is not None:
            highs.setOptionValue(name, value)
    continuous = dataclasses.replace(program, whole=np.zeros_like(program.whole))
    highs.passModel(*_arrays(continuous, highspy.kHighsInf))
    highs.run()
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return np.array(highs.getSolution().row_dual)


def highs_options(settings: Settings) -> dict[str, Any]:
    """Options of HiGHS that do not depend on how it is called.

    Args:
        settings: How to run.

    Returns:
        Options by HiGHS's names.
    """
    return {
        "output_flag": False,
        "random_seed": settings.seed,
        "mip_feasibility_tolerance": FEASIBILITY,
        "primal_feasibility_tolerance": FEASIBILITY,
        "dual_feasibility_tolerance": FEASIBILITY,
    }


def quiet_highs(threads: int | None) -> None:
    """Keep standard output clean, and let this run have its own number of threads.

    Args:
        threads: Threads of the coming run, None to leave them as they are.
    """
    _silence_banner()
    if threads is not None:
        import highspy

        # HiGHS keeps one pool of threads for the process.
        highspy.Highs.resetGlobalScheduler(True)


@functools.cache
def _silence_banner() -> None:
    """Make the first ``highspy.Highs()`` of a process print nothing.

    HiGHS prints its banner once, and counts it as printed when the console is off. Its
    constructor in Python already prints, so the console is turned off on the C++ class that it
    extends.
    """
    import highspy

    core: Any = highspy.Highs.__base__
    if hasattr(core, "setOptionValue"):
        quiet = core()
        quiet.setOptionValue("log_to_console", False)
        quiet.run()


def _arrays(program: Program, infinity: float) -> tuple[Any, ...]:
    starts, at, values = program.sparse()
    bounds = np.array([(row.lower, row.upper) for row in program.rows])
    bounds = np.clip(bounds, -infinity, infinity)
    row_wise, minimise = 2, 1
    return (
        len(program.cost),
        len(program.rows),
        len(values),
        row_wise,
        minimise,
        0.0,
        program.cost,
        np.zeros(len(program.cost)),
        np.clip(program.most, None, infinity),
        np.ascontiguousarray(bounds[:, 0]),
        np.ascontiguousarray(bounds[:, 1]),
        starts.astype(np.int32),
        at.astype(np.int32),
        values,
        program.whole.astype(np.int32),
    )


def _partial(program: Program, columns: Columns, start: tuple[int, ...]) -> tuple[Any, Any]:
    """Fix the groups whose selected column is in the program; HiGHS completes the others."""
    present = set(program.columns.tolist())
    known = columns.covered([column for column in start if column in present]) > 0
    unknown = np.concatenate([[0], np.cumsum(~known)])
    first, last = columns.first[program.columns], columns.last[program.columns]
    at = np.flatnonzero(unknown[last + 1] == unknown[first])
    values = np.isin(program.columns[at], start).astype(np.float64)
    return at.astype(np.int32), values


def _returns_another(highs: Any, highspy: Any, program: Program) -> bool:
    """Check whether the solution differs from the one whose objective HiGHS reports.

    After some starts, HiGHS 1.16 reports the optimum and returns the start.
    """
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return False
    value = float(program.cost @ np.array(highs.getSolution().col_value))
    reported = highs.getInfo().objective_function_value
    return abs(value - reported) > 1e-6 * (1.0 + abs(value))


def _read(highs: Any, highspy: Any, program: Program, columns: Columns) -> BackendResult:
    status, info = highs.getModelStatus(), highs.getInfo()
    kind = highspy.HighsModelStatus
    has_values = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    if status in (kind.kInfeasible, kind.kUnboundedOrInfeasible):
        # Every variable is bounded, or costs more the larger it is: unbounded it cannot be.
        ending = Ending.INFEASIBLE
    elif status == kind.kOptimal:
        ending = Ending.OPTIMAL
    elif status in (kind.kSolveError, kind.kModelError, kind.kLoadError, kind.kPresolveError):
        raise SolverError(f"HiGHS failed: {highs.modelStatusToString(status)}")
    else:
        ending = Ending.STOPPED if has_values else Ending.NOTHING
    values = np.array(highs.getSolution().col_value) if has_values else None
    return finish(ending, info.mip_dual_bound, values, program, columns)
