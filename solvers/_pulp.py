"""The only file that knows PuLP, and the differences between PuLP 3 and PuLP 4."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from typing import Any

import numpy as np

from solvers._columns import Columns
from solvers._highs import highs_options, quiet_highs
from solvers._model import Program
from solvers._settings import BackendResult, Ending, Settings, finish
from solvers.errors import SolverError

# PuLP 3's codes for prob.status (the first) and prob.sol_status; PuLP 4 has no such names.
_INFEASIBLE_3, _OPTIMAL_3, _STOPPED_3 = -1, 1, 2


@functools.cache
def _pulp() -> Any:
    # Not needed for HiGHS and scipy: it may be missing, and takes a while to import.
    return importlib.import_module("pulp")


def run_pulp(program: Program, columns: Columns, settings: Settings) -> BackendResult:
    """Solve a program through PuLP.

    Args:
        program: The program.
        columns: The columns of the problem behind it.
        settings: How to run, with "cbc" or "pulp:NAME" as the solver.

    Returns:
        How the run ended.

    Raises:
        SolverError: If the solver itself failed.
    """
    try:
        return _solve(program, columns, settings)
    except SolverError:
        if settings.solver != "cbc" or "preprocess" in settings.options:
            raise
    # Without preprocessing, CBC 2.10.3 ends with neither an answer nor a file where tightening
    # bounds shows that there is none.
    checked = dataclasses.replace(settings, options={**settings.options, "preprocess": "sos"})
    outcome = _solve(program, columns, checked)
    if outcome.ending is Ending.OPTIMAL:
        # What preprocessing proves is not always so.
        outcome = dataclasses.replace(outcome, ending=Ending.STOPPED, bound=None)
    return outcome


def _solve(program: Program, columns: Columns, settings: Settings) -> BackendResult:
    prob, variables = _build(program)
    try:
        returned = prob.solve(_backend(settings))
    except _pulp().PulpSolverError as error:
        raise SolverError(f"solver {settings.solver!r} failed: {error}") from error
    except IndexError:
        # PuLP reads the rows of HiGHS's answer where HiGHS failed and has none.
        return finish(Ending.STOPPED, None, None, program, columns)
    ending, bound = read_outcome(prob, returned)
    values = [variable.value() for variable in variables]
    complete = None if None in values else np.array(values, dtype=np.float64)
    return finish(ending, bound, complete, program, columns)


def read_outcome(prob: Any, returned: Any) -> tuple[Ending, float | None]:
    """Read how a run ended, from what PuLP 3 or PuLP 4 leaves behind.

    PuLP 4 returns an ``LpSolveStats``. PuLP 3 returns a number that calls a time-limited run
    optimal, so only ``prob.sol_status`` is trusted there.

    Args:
        prob: The solved ``LpProblem``.
        returned: What ``prob.solve`` returned.

    Returns:
        How it ended, and the bound if there is one.
    """
    if hasattr(returned, "has_solution"):
        name = returned.status.name
        if name == "Infeasible":
            ending = Ending.INFEASIBLE
        elif not returned.has_solution:
            ending = Ending.NOTHING
        else:
            ending = Ending.OPTIMAL if name == "Optimal" else Ending.STOPPED
        bound = _finite(returned.best_bound)
        return ending, _highs_bound(prob) if bound is None else bound
    if prob.status == _INFEASIBLE_3:
        ending = Ending.INFEASIBLE
    elif prob.sol_status == _OPTIMAL_3:
        ending = Ending.OPTIMAL
    elif prob.sol_status == _STOPPED_3:
        ending = Ending.STOPPED
    else:
        ending = Ending.NOTHING
    return ending, _highs_bound(prob)


def pulp_solvers() -> tuple[str, ...]:
    """List the solvers that PuLP finds here.

    Returns:
        PuLP's own names, without the bundled CBC that PuLP 4 no longer has.
    """
    return tuple(name for name in _pulp().listSolvers(onlyAvailable=True) if name != "PULP_CBC_CMD")


def cbc_path() -> str | None:
    """Find CBC: bundled with PuLP 3, installed apart for PuLP 4.

    Returns:
        Path of the program, or None.
    """
    # Creating PULP_CBC_CMD warns on PuLP 3; the path of its binary is all that is needed.
    bundled = getattr(getattr(_pulp(), "PULP_CBC_CMD", None), "pulp_cbc_path", None)
    for path in (bundled, _pulp().COIN_CMD(msg=False).path):
        if path and _pulp().COIN_CMD(msg=False, path=path).available():
            return str(path)
    return None


def _highs_bound(prob: Any) -> float | None:
    """Read the proved bound from HiGHS itself; PuLP 3 does not pass it on."""
    highs: Any = getattr(prob, "solverModel", None)
    return _finite(highs.getInfo().mip_dual_bound) if hasattr(highs, "getInfo") else None


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _build(program: Program) -> tuple[Any, list[Any]]:
    prob = _pulp().LpProblem("choices", _pulp().LpMinimize)
    variables = [
        prob.add_variable(
            f"x_{at}",
            0,
            float(most) if math.isfinite(most) else None,
            _pulp().LpInteger if whole else _pulp().LpContinuous,
        )
        for at, (whole, most) in enumerate(zip(program.whole, program.most, strict=True))
    ]
    # PuLP 3 invents a dummy variable for an empty objective; the sum of all is as constant.
    cost = program.cost
    if not np.any(cost):
        cost = np.zeros_like(cost)
        cost[: len(program.columns)] = 1.0
    prob += _dot(cost, variables)
    for at, row in enumerate(program.rows):
        body = _dot(row.coefficients, [variables[i] for i in row.at])
        # A bound from below and another from above never differ here.
        prob += (body == row.upper if row.lower == row.upper else body <= row.upper), f"row_{at}"
    return prob, variables


def _dot(coefficients: np.ndarray, variables: list[Any]) -> Any:
    pairs = zip(coefficients.tolist(), variables, strict=True)
    return _pulp().lpSum(value * variable for value, variable in pairs if value != 0.0)


def _backend(settings: Settings) -> Any:
    common: dict[str, Any] = {
        "msg": False,
        "timeLimit": settings.time_limit,
        "gapRel": settings.gap,
        "threads": settings.threads,
    }
    given = dict(settings.options)
    if settings.solver == "cbc":
        return _pulp().COIN_CMD(**common, gapAbs=0.0, path=cbc_path(), options=_cbc_flags(settings))
    name = settings.solver.removeprefix("pulp:")
    if name == "HiGHS":
        quiet_highs(settings.threads)
        # PuLP 4 silences only the console with msg=False, so output_flag is in the options.
        return _pulp().HiGHS(**common, gapAbs=0.0, **(highs_options(settings) | given))
    solver: Any = getattr(_pulp(), name)
    try:
        return solver(**common, **given)
    except TypeError as error:
        # Not every solver of PuLP takes a number of threads or a gap.
        raise SolverError(f"PuLP's {name} does not take these settings: {error}") from error


def _cbc_flags(settings: Settings) -> list[str]:
    own: dict[str, Any] = {
        # Its preprocessing substitutes variables wrongly where options are tied to kinds: CBC
        # 2.10.3 then calls optimal what is not, whatever the tolerances.
        "preprocess": "off",
        # Zero would be the time of day.
        "randomSeed": max(settings.seed, 1),
        "primalTolerance": 1e-9,
        "integerTolerance": 1e-9,
        # By default CBC ignores a solution that is better by less than 1e-5.
        "increment": 1e-9,
    }
    return [f"{name} {value}" for name, value in (own | dict(settings.options)).items()]
