"""``scipy.optimize.milp``: the copy of HiGHS that comes with SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from solvers._columns import Columns
from solvers._model import Program
from solvers._settings import BackendResult, Ending, Settings, finish
from solvers.errors import SolverError

# SciPy gives no way to set feasibility tolerances, which are absolute and 1e-6; longer rows and
# costs make them as tight as they are elsewhere. A power of two, so nothing is rounded.
_STRETCH = 2.0**13


def run_scipy(program: Program, columns: Columns, settings: Settings) -> BackendResult:
    """Solve a program with SciPy.

    Args:
        program: The program.
        columns: The columns of the problem behind it.
        settings: How to run; SciPy takes neither threads nor a seed, and starts from nothing.

    Returns:
        How the run ended.

    Raises:
        SolverError: If the solver failed.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    starts, at, values = program.sparse()
    shape = (len(program.rows), len(program.cost))
    bounds = _STRETCH * np.array([(row.lower, row.upper) for row in program.rows])
    matrix = csr_array((_STRETCH * values, at, starts), shape=shape)
    options: dict[str, Any] = {"mip_rel_gap": settings.gap, **settings.options}
    if settings.time_limit is not None:
        options["time_limit"] = settings.time_limit
    result = milp(
        _STRETCH * program.cost,
        integrality=program.whole.astype(np.int8),
        bounds=Bounds(0.0, program.most),
        constraints=LinearConstraint(matrix, bounds[:, 0], bounds[:, 1]),
        options=options,
    )
    endings = {0: Ending.OPTIMAL, 1: Ending.STOPPED, 2: Ending.INFEASIBLE}
    if result.status not in endings:
        raise SolverError(f"SciPy's milp failed: {result.message}")
    bound = getattr(result, "mip_dual_bound", None)
    bound = None if bound is None else bound / _STRETCH
    return finish(endings[result.status], bound, result.x, program, columns)
