"""Choose one option for each layer: numbers in, choices out.

The optimisation half of the search. It knows nothing of models: a `ChoiceProblem` holds scores
and resources as arrays, `solve` returns a `Solution`.
"""

from solvers._backends import available_solvers, check_settings
from solvers.errors import InfeasibleError, NoSolutionError, SolverError, SolverMissingError
from solvers.explanation import Explanation, Reach, explain
from solvers.limits import Distinct, Limit
from solvers.mip import solve
from solvers.nesting import Nested, only, solve_nested
from solvers.plain import problem_from_dict, problem_to_dict
from solvers.pools import BestOver, best_over, frontier, pool
from solvers.problem import ChoiceProblem
from solvers.refinement import MeasuredChoice, Refined, refine
from solvers.sensitivities import Sensitivity, sensitivity
from solvers.solution import Solution, Status
from solvers.span import Span

__all__ = [
    "BestOver",
    "ChoiceProblem",
    "Distinct",
    "Explanation",
    "InfeasibleError",
    "Limit",
    "MeasuredChoice",
    "Nested",
    "NoSolutionError",
    "Reach",
    "Refined",
    "Sensitivity",
    "Solution",
    "SolverError",
    "SolverMissingError",
    "Span",
    "Status",
    "available_solvers",
    "best_over",
    "check_settings",
    "explain",
    "frontier",
    "only",
    "pool",
    "problem_from_dict",
    "problem_to_dict",
    "refine",
    "sensitivity",
    "solve",
    "solve_nested",
]
