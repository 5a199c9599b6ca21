"""Choose one option for each layer: numbers in, choices out.

The optimisation half of the search. It knows nothing of models: a `ChoiceProblem` holds scores
and resources as arrays, `solve` returns a `Solution`.
"""

from solvers.errors import InfeasibleError, NoSolutionError, SolverError, SolverMissingError
from solvers.explain import Explanation, Reach, explain
from solvers.limits import Distinct, Limit
from solvers.mip import available_solvers, solve
from solvers.problem import ChoiceProblem
from solvers.solution import Solution, Status
from solvers.span import Span

__all__ = [
    "ChoiceProblem",
    "Distinct",
    "Explanation",
    "InfeasibleError",
    "Limit",
    "NoSolutionError",
    "Reach",
    "Solution",
    "SolverError",
    "SolverMissingError",
    "Span",
    "Status",
    "available_solvers",
    "explain",
    "solve",
]
