"""The part of PuLP that differs between versions 3 and 4, behind one answer.

Run here on PuLP 3.3.2; the branch for PuLP 4, which needs Python 3.12, follows its documented
`LpSolveStats`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pulp
from pulp.apis import coin_api

from solvers.errors import SolverError, SolverMissingError

SOLVERS = ("cbc", "highs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a solver says: is there a solution, is it proven best, and how good could one be."""

    feasible: bool
    stopped: bool
    proven: bool
    bound: float | None


def available_solvers() -> tuple[str, ...]:
    """Returns the names that `solve(solver=...)` accepts on this machine."""
    return tuple(name for name in SOLVERS if _make(name, {"msg": False}).available())


def _make(name: str, options: dict[str, Any]) -> Any:
    if name == "highs":
        return pulp.HiGHS(**options)
    # PuLP 3 carries a CBC binary of its own; PuLP 4 finds one on the PATH or in an extra.
    bundled = getattr(coin_api, "pulp_cbc_path", None)
    return pulp.COIN_CMD(path=bundled, **options) if bundled else pulp.COIN_CMD(**options)


def make_solver(
    name: str, *, time_limit: float | None, gap: float, threads: int | None, seed: int
) -> Any:
    """Returns the PuLP solver of this name with its limits set."""
    if name not in SOLVERS:
        raise ValueError(f"solver {name!r}; allowed: {list(SOLVERS)}")
    if name not in available_solvers():
        fix = {"highs": "pip install highspy", "cbc": "pip install pulp[cbc]"}[name]
        raise SolverMissingError(
            f"solver {name!r} is not installed; run: {fix}, or use one of {available_solvers()}"
        )
    common: dict[str, Any] = {"msg": False, "timeLimit": time_limit, "gapRel": gap}
    if threads is not None:
        common["threads"] = threads
    if name == "highs":
        return _make(name, {**common, "random_seed": seed})
    return _make(name, {**common, "options": [f"randomSeed {seed + 1}"]})


def read_outcome(problem: Any, returned: Any, *, gap: float) -> Outcome:
    """Returns the outcome of `problem.solve(...)`, whatever the version of PuLP.

    PuLP 3 reports a time-limited solve as optimal; only `sol_status` tells it apart.
    """
    if not isinstance(returned, int):
        status = returned.status.name
        proven = status == "Optimal"
        bound = returned.best_bound
        return Outcome(
            feasible=bool(returned.has_solution),
            stopped=status not in ("Optimal", "Infeasible", "InfeasibleOrUnbounded"),
            proven=proven and _closed(problem, bound, gap),
            bound=bound,
        )
    if returned == pulp.LpStatusUndefined:
        raise SolverError("the solver gave no status; try another one with solver=")
    highs: Any = getattr(problem, "solverModel", None)
    info = highs.getInfo() if hasattr(highs, "getInfo") else None
    bound = info.mip_dual_bound if info is not None else None
    feasible = problem.sol_status in (
        pulp.LpSolutionOptimal,
        pulp.LpSolutionIntegerFeasible,
    )
    proven = problem.sol_status == pulp.LpSolutionOptimal and _closed(problem, bound, gap)
    return Outcome(
        feasible=feasible,
        stopped=returned == pulp.LpStatusNotSolved,
        proven=proven,
        bound=bound if bound is not None and math.isfinite(bound) else None,
    )


def _closed(problem: Any, bound: float | None, gap: float) -> bool:
    """Returns whether the bound proves the objective, not only a gap the user allowed."""
    if gap == 0.0:
        return True
    value = pulp.value(problem.objective)
    return bound is not None and value - bound <= 1e-9 * max(1.0, abs(value))
