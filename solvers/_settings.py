"""How to run a solver, and what a run gives, whichever solver it is."""

from __future__ import annotations

import enum
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from solvers._columns import Columns, FloatArray
from solvers._model import Program

LARGEST_SEED = 2**31 - 1

# Ten times inside the tolerance that a solution is checked against afterwards.
FEASIBILITY = 1e-10


def checked_seed(seed: Any) -> int:
    """Returns a seed as an int of Python's own, numpy's integers included.

    Raises:
        ValueError: It is no whole number, or out of range.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or not 0 <= number <= LARGEST_SEED:
        raise ValueError(f"seed is {seed!r}; give a whole number from 0 to {LARGEST_SEED}")
    return number


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run a solver.

    Raises:
        ValueError: If a number is out of range.
    """

    solver: str = "highs"
    time_limit: float | None = None
    gap: float = 0.0
    threads: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limit, threads = self.time_limit, self.threads
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            raise ValueError(
                f"time_limit is {limit}; give a positive number of seconds, or None for no limit"
            )
        if not 0.0 <= self.gap < 1.0:
            raise ValueError(
                f"gap is {self.gap}; give a share from 0 (exact) up to, not including, 1"
            )
        if threads is not None and threads < 1:
            raise ValueError(
                f"threads is {threads}; give 1 or more, or None for the solver's choice"
            )
        object.__setattr__(self, "seed", checked_seed(self.seed))


class Ending(enum.Enum):
    """How a solver run ended."""

    OPTIMAL = "optimal"
    STOPPED = "stopped with a solution"
    INFEASIBLE = "infeasible"
    NOTHING = "stopped without a solution"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendResult:
    """What a solver run gave: a bound in the units of the program, and what it selected."""

    ending: Ending
    bound: float | None
    selection: tuple[int, ...] | None = None


def finish(
    ending: Ending, bound: float | None, values: FloatArray | None, program: Program, all_: Columns
) -> BackendResult:
    """Read the selection from a solver's values; values that are no selection count as nothing.

    Args:
        ending: How the run ended, as the solver reports it.
        bound: The bound it proved.
        values: Values of the program's variables.
        program: What was solved.
        all_: The columns of the problem.

    Returns:
        The outcome.
    """
    bound = float(bound) if bound is not None and math.isfinite(bound) else None
    if ending in (Ending.INFEASIBLE, Ending.NOTHING) or values is None:
        ending = ending if ending is Ending.INFEASIBLE else Ending.NOTHING
        return BackendResult(ending=ending, bound=bound)
    chosen = program.columns[np.asarray(values)[: len(program.columns)] > 0.5]
    if (all_.covered(chosen.tolist()) != 1).any():
        return BackendResult(ending=Ending.NOTHING, bound=bound)
    ordered = sorted(chosen.tolist(), key=lambda column: int(all_.first[column]))
    return BackendResult(ending=ending, bound=bound, selection=tuple(ordered))
