"""The errors of the solvers."""

from __future__ import annotations


class SolverError(RuntimeError):
    """Root of the errors raised while solving."""


class InfeasibleError(SolverError):
    """No choice meets all limits.

    Attributes:
        explanation: A few plain lines: which limits cannot hold, alone or together, and what
            can be reached.
    """

    def __init__(self, explanation: str) -> None:
        super().__init__(explanation)
        self.explanation = explanation


class NoSolutionError(SolverError):
    """The time limit passed before any choice that meets all limits was found."""


class SolverMissingError(SolverError):
    """The solver asked for is not installed; the message says how to get it."""
