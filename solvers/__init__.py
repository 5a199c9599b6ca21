"""Choose one option for each layer: numbers in, choices out.

The optimisation half of the search. It knows nothing of models: a `ChoiceProblem` holds scores
and resources as arrays, `solve` returns a `Solution`.
"""

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
