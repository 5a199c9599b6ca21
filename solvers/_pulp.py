"""The only file that knows PuLP, and the differences between PuLP 3 and PuLP 4."""

from __future__ import annotations

import enum
import functools
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pulp

from solvers._model import ScaledModel
from solvers.errors import SolverError, SolverMissingError

_LOGGER = logging.getLogger(__name__)

_INSTALL = {"highs": "pip install highspy", "cbc": "pip install 'pulp[cbc]'"}

# PuLP 3's codes for prob.status (the first) and prob.sol_status; PuLP 4 has no such names.
_INFEASIBLE_3, _OPTIMAL_3, _STOPPED_3 = -1, 1, 2

# Ten times inside the tolerance that a solution is checked against afterwards.
_FEASIBILITY = 1e-10


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run a solver."""

    solver: str = "highs"
    time_limit: float | None = None
    gap: float = 0.0
    threads: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


class Ending(enum.Enum):
    """How a solver run ended."""

    OPTIMAL = "optimal"
    STOPPED = "stopped with a solution"
    INFEASIBLE = "infeasible"
    NOTHING = "stopped without a solution"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a solver run gave, in the units of the scaled model."""

    ending: Ending
    bound: float | None
    choices: tuple[int, ...] | None = None


def available_solvers() -> tuple[str, ...]:
    """List the solvers that can be used here.

    Returns:
        Names that `solve` takes, the default first.

    Example:
        >>> "highs" in available_solvers()
        True
    """
    found = {"highs": pulp.HiGHS(msg=False).available(), "cbc": _cbc_path() is not None}
    return tuple(name for name, there in found.items() if there)


def require_solver(name: str) -> None:
    """Check that a solver can be used.

    Args:
        name: Name of the solver.

    Raises:
        ValueError: If no solver has that name.
        SolverMissingError: If the solver is not installed.
    """
    if name not in _INSTALL:
        raise ValueError(f"unknown solver {name!r}; choose one of {', '.join(_INSTALL)}")
    if name not in available_solvers():
        raise SolverMissingError(
            f"solver {name!r} is not available with PuLP {pulp.__version__}; "
            f"install it with: {_INSTALL[name]}"
        )


def run_model(model: ScaledModel, settings: Settings) -> Outcome:
    """Solve a scaled model.

    Args:
        model: The model.
        settings: Which solver to use, and how.

    Returns:
        How the run ended, with the choices where there are any.

    Raises:
        SolverError: If the solver itself failed.
    """
    prob, groups = _build(model)
    _LOGGER.debug(
        "%s: %d groups, %d options, %d rows",
        settings.solver,
        len(groups),
        model.cost.size,
        len(model.rows),
    )
    try:
        returned = prob.solve(_backend(settings))
    except pulp.PulpSolverError as error:
        raise SolverError(f"solver {settings.solver!r} failed: {error}") from error
    outcome = read_outcome(prob, returned)
    if outcome.ending in (Ending.INFEASIBLE, Ending.NOTHING):
        return outcome
    choices = _read_choices(groups)
    if choices is None:
        return Outcome(ending=Ending.NOTHING, bound=outcome.bound)
    return Outcome(ending=outcome.ending, bound=outcome.bound, choices=choices)


def read_outcome(prob: Any, returned: Any) -> Outcome:
    """Tell how a run ended, from what PuLP 3 or PuLP 4 leaves behind.

    PuLP 4 returns an ``LpSolveStats``. PuLP 3 returns a number that calls a time-limited run
    optimal, so only ``prob.sol_status`` is trusted there.

    Args:
        prob: The solved ``LpProblem``.
        returned: What ``prob.solve`` returned.

    Returns:
        The outcome, without choices.
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
        return Outcome(ending=ending, bound=_highs_bound(prob) if bound is None else bound)
    if prob.status == _INFEASIBLE_3:
        ending = Ending.INFEASIBLE
    elif prob.sol_status == _OPTIMAL_3:
        ending = Ending.OPTIMAL
    elif prob.sol_status == _STOPPED_3:
        ending = Ending.STOPPED
    else:
        ending = Ending.NOTHING
    return Outcome(ending=ending, bound=_highs_bound(prob))


def _highs_bound(prob: Any) -> float | None:
    """Read the proved bound from HiGHS itself; PuLP 3 does not pass it on."""
    highs: Any = getattr(prob, "solverModel", None)
    return _finite(highs.getInfo().mip_dual_bound) if hasattr(highs, "getInfo") else None


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _build(model: ScaledModel) -> tuple[Any, list[list[Any]]]:
    prob = pulp.LpProblem("choices", pulp.LpMinimize)
    groups = [
        [prob.add_variable(f"x_{g}_{i}", 0, 1, pulp.LpInteger) for i in range(size)]
        for g, size in enumerate(model.group_sizes)
    ]
    flat = [variable for group in groups for variable in group]
    # PuLP 3 invents a dummy variable for an empty objective; the sum of all is as constant.
    cost = model.cost if np.any(model.cost) else np.ones_like(model.cost)
    prob += _dot(cost, flat)
    for g, group in enumerate(groups):
        prob += pulp.lpSum(group) == 1, f"one_{g}"
    for r, (coefficients, upper) in enumerate(model.rows):
        prob += _dot(coefficients, flat) <= upper, f"limit_{r}"
    return prob, groups


def _dot(coefficients: np.ndarray, variables: list[Any]) -> Any:
    pairs = zip(coefficients.tolist(), variables, strict=True)
    return pulp.lpSum(value * variable for value, variable in pairs if value != 0.0)


def _read_choices(groups: list[list[Any]]) -> tuple[int, ...] | None:
    """Take the largest variable of each group, or None where the values are no choice at all."""
    choices = []
    for group in groups:
        values = [variable.value() for variable in group]
        if None in values or max(values) < 0.5:
            return None
        choices.append(values.index(max(values)))
    return tuple(choices)


def _backend(settings: Settings) -> Any:
    common: dict[str, Any] = {
        "msg": False,
        "timeLimit": settings.time_limit,
        "gapRel": settings.gap,
        "gapAbs": 0.0,
        "threads": settings.threads,
    }
    if settings.solver == "highs":
        _silence_highs_banner()
        _reset_highs_threads(settings.threads)
        own: dict[str, Any] = {
            # PuLP 4 silences only the console with msg=False.
            "output_flag": False,
            "random_seed": settings.seed,
            "mip_feasibility_tolerance": _FEASIBILITY,
            "primal_feasibility_tolerance": _FEASIBILITY,
            "dual_feasibility_tolerance": _FEASIBILITY,
        }
        return pulp.HiGHS(**common, **(own | dict(settings.options)))
    own = {
        "randomSeed": settings.seed,
        "primalTolerance": 1e-9,
        "integerTolerance": 1e-9,
        # By default CBC ignores a solution that is better by less than 1e-5.
        "increment": 1e-9,
    }
    flags = [f"{name} {value}" for name, value in (own | dict(settings.options)).items()]
    return pulp.COIN_CMD(**common, path=_cbc_path(), options=flags)


@functools.cache
def _silence_highs_banner() -> None:
    """Keep standard output clean: the first ``highspy.Highs()`` of a process prints a banner.

    HiGHS prints it once, and counts it as printed when the console is off. Its constructor in
    Python already prints, so the console is turned off on the C++ class that it extends.
    """
    import highspy

    core: Any = highspy.Highs.__base__
    if hasattr(core, "setOptionValue"):
        quiet = core()
        quiet.setOptionValue("log_to_console", False)
        quiet.run()


def _reset_highs_threads(threads: int | None) -> None:
    """Let this run have its own number of threads: HiGHS keeps one pool for the process."""
    if threads is not None:
        import highspy

        highspy.Highs.resetGlobalScheduler(True)


def _cbc_path() -> str | None:
    """Find CBC: bundled with PuLP 3, installed apart for PuLP 4."""
    # Creating PULP_CBC_CMD warns on PuLP 3; the path of its binary is all that is needed.
    bundled = getattr(getattr(pulp, "PULP_CBC_CMD", None), "pulp_cbc_path", None)
    for path in (bundled, pulp.COIN_CMD(msg=False).path):
        if path and pulp.COIN_CMD(msg=False, path=path).available():
            return str(path)
    return None
