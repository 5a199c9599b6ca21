"""What can go wrong while choosing, one class per thing the caller may want to catch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from solvers.explanation import Explanation
    from solvers.problem import ChoiceProblem


class SolverError(RuntimeError):
    """Root of every error this package raises while solving.

    Malformed problems are refused earlier, with a ``ValueError``, when they are built.
    """


class InfeasibleError(SolverError):
    """No choice satisfies every limit; `explanation` says which limits are to blame.

    Args:
        problem: The problem that has no solution.
        explanation: What `solvers.explanation` returns, or plain lines in its place.
    """

    def __init__(self, problem: ChoiceProblem, explanation: Explanation | str) -> None:
        # Both go to args, so that the error survives pickling between processes.
        super().__init__(problem, explanation)
        self.problem = problem
        self.explanation = explanation

    def __str__(self) -> str:
        return f"no choice satisfies every limit\n{self.explanation}"


class NoSolutionError(SolverError):
    """The solver stopped with neither a usable choice nor a proof that there is none."""


class SolverMissingError(SolverError):
    """The requested solver is not installed; the message holds the command that installs it."""
