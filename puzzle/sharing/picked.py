"""Picked: a layout that was chosen from a shared library, and what it promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from search_space import Layout
from solvers import Solution

__all__ = ["Picked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """A layout chosen from a shared library; nothing of it was measured.

    Args:
        layout: The layout.
        solution: The program's answer.
        kl: The sum of its blocks' scores, nats per token: an estimate, and one that ignores what
            blocks do together.
        outcomes: Each constraint and what is predicted of it.
    """

    layout: Layout
    solution: Solution
    kl: float
    outcomes: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        lines = [str(self.layout), f"sum of scores: {self.kl:.3g} nats per token (an estimate)"]
        lines += [f"{constraint}: predicted {words}" for constraint, words in self.outcomes]
        return "\n".join([*lines, f"solution: {self.solution.status}"])

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "layout": self.layout.to_dict(),
            "solution": self.solution.to_dict(),
            "kl": self.kl,
            "outcomes": [list(each) for each in self.outcomes],
        }
