"""Which solvers there are, and the one call that runs any of them."""

from __future__ import annotations

import importlib.util
import logging
from importlib.metadata import version

from solvers import _pulp
from solvers._columns import Columns
from solvers._core import run_core
from solvers._model import Program
from solvers._scipy import run_scipy
from solvers._settings import BackendResult, Settings
from solvers.errors import SolverMissingError

_LOGGER = logging.getLogger(__name__)

_INSTALL = {
    "highs": "pip install highspy",
    "scipy": "pip install scipy",
    "cbc": "pip install 'pulp[cbc]'",
}


def available_solvers() -> tuple[str, ...]:
    """List the solvers that can be used here.

    Returns:
        Names that `solve` takes, the default first; "pulp:NAME" is solver NAME through PuLP.

    Example:
        >>> "highs" in available_solvers()
        True
    """
    own = {"highs": _installed("highspy"), "scipy": _installed("scipy"), "cbc": _has_cbc()}
    names = [name for name, there in own.items() if there]
    if _installed("pulp"):
        names += [f"pulp:{name}" for name in _pulp.pulp_solvers()]
    return tuple(names)


def check_settings(solver: str, seed: int) -> None:
    """Raises what a solve with this solver and seed would raise, without solving anything.

    Args:
        solver: Name of the solver.
        seed: Seed of the solver.

    Raises:
        ValueError: No solver has that name, or the seed is no whole number or out of range.
        SolverMissingError: The solver is not installed.

    Example:
        >>> check_settings("highs", 0)
    """
    Settings(solver, seed=seed)
    require_solver(solver)


def require_solver(name: str) -> None:
    """Check that a solver can be used.

    Args:
        name: Name of the solver.

    Raises:
        ValueError: If no solver has that name.
        SolverMissingError: If the solver is not installed.
    """
    if name.startswith("pulp:") and _installed("pulp"):
        _require_pulp(name.removeprefix("pulp:"))
        return
    if name not in _INSTALL and not name.startswith("pulp:"):
        raise ValueError(
            f"unknown solver {name!r}; choose one of {', '.join(_INSTALL)}, or 'pulp:NAME' with "
            "PuLP's name of a solver"
        )
    if name == "cbc" and _has_cbc():
        return
    if name == "cbc" and _installed("pulp"):
        raise SolverMissingError(
            f"solver 'cbc' is not available with PuLP {version('pulp')}; "
            f"install it with: {_INSTALL['cbc']}"
        )
    module = {"highs": "highspy", "scipy": "scipy"}.get(name, "pulp")
    if not _installed(module):
        raise SolverMissingError(
            f"solver {name!r} is not installed; install it with: "
            f"{_INSTALL.get(name, 'pip install pulp')}"
        )


def run_program(
    program: Program, columns: Columns, settings: Settings, start: tuple[int, ...] | None = None
) -> BackendResult:
    """Solve a program with the solver that the settings name.

    Args:
        program: The program.
        columns: The columns of the problem behind it.
        settings: Which solver to use, and how.
        start: A selection to begin from, for the solvers that can.

    Returns:
        How the run ended.

    Raises:
        SolverError: If the solver itself failed.
    """
    _LOGGER.debug(
        "%s: %d variables, %d rows", settings.solver, len(program.cost), len(program.rows)
    )
    if settings.solver == "highs":
        return run_core(program, columns, settings, start)
    if settings.solver == "scipy":
        return run_scipy(program, columns, settings)
    return _pulp.run_pulp(program, columns, settings)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _has_cbc() -> bool:
    if not _installed("pulp"):
        return False
    return _pulp.cbc_path() is not None


def _require_pulp(name: str) -> None:
    import pulp

    if name == "PULP_CBC_CMD":
        raise ValueError("PuLP's bundled CBC is solver 'cbc' here; it also finds a CBC of its own")
    known = pulp.listSolvers()
    if name not in known:
        raise ValueError(f"PuLP knows no solver {name!r}; choose one of {', '.join(known)}")
    if name not in _pulp.pulp_solvers():
        raise SolverMissingError(
            f"solver {name!r} is not available with PuLP {version('pulp')}; install it, and let "
            f"pulp.listSolvers(onlyAvailable=True) list it"
        )
