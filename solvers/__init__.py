"""Optimisation: numpy in, choices out. Imports neither torch nor puzzle."""

from solvers.errors import InfeasibleError, NoSolutionError, SolverError, SolverMissingError
from solvers.mip import available_solvers, solve
from solvers.problem import ChoiceProblem, Limit, Solution, Status

__all__ = [
    "ChoiceProblem",
    "InfeasibleError",
    "Limit",
    "NoSolutionError",
    "Solution",
    "SolverError",
    "SolverMissingError",
    "Status",
    "available_solvers",
    "solve",
]
