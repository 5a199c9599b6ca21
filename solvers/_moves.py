"""Propose small changes of a choice that stay within the limits."""

from __future__ import annotations

import numpy as np

from solvers._columns import FloatArray, IntArray
from solvers._model import one_sided
from solvers.problem import ChoiceProblem

Move = tuple[tuple[int, ...], str]

# Pairs are made of this many single swaps, the most promising ones.
_SINGLES_IN_PAIRS = 400


class Moves:
    """Proposes swaps of one group, and of two groups that trade budget.

    Groups covered by a span stay as they are.
    """

    def __init__(self, problem: ChoiceProblem, seed: int) -> None:
        self.problem = problem
        self.random = np.random.default_rng(seed)
        columns = problem.columns
        sides = one_sided(problem)
        self.signs = np.array([1.0 if side.at_most is not None else -1.0 for side in sides])
        self.bounds = np.array(
            [
                sign * side.bound + problem.tolerance(side.resource)
                for sign, side in zip(self.signs, sides, strict=True)
            ]
        )
        self.names = [side.resource for side in sides]
        uses = [
            sign * columns.resources[name]
            for sign, name in zip(self.signs, self.names, strict=True)
        ]
        self.uses = np.stack(uses) if uses else np.zeros((0, len(columns.score)))

    def propose(self, at: tuple[int, ...], count: int, seen: set[tuple[int, ...]]) -> list[Move]:
        """Propose moves from a selection.

        Args:
            at: The present selection.
            count: How many moves.
            seen: Selections that are not proposed again.

        Returns:
            At most `count` selections, each with the move in words; promising ones first.
        """
        old, new = self._singles(at)
        if not new.size:
            return []
        totals = self.problem.total(at)[1]
        room = self.bounds - self.signs * np.array([totals[name] for name in self.names])
        cost = self.uses[:, new] - self.uses[:, old]
        gain = self.problem.columns.score[new] - self.problem.columns.score[old]
        fits = (cost <= room[:, None]).all(axis=0)
        candidates: list[tuple[tuple[int, ...], float]]
        candidates = [((int(i),), float(gain[i])) for i in np.flatnonzero(fits)]
        candidates += self._pairs(old, gain, cost, room)
        moves: dict[tuple[int, ...], str] = {}
        for swaps, _ in self._order(candidates):
            selection, words = self._apply(at, old, new, swaps)
            if selection not in seen and self._is_allowed(selection):
                moves.setdefault(selection, words)
            if len(moves) == count:
                break
        return list(moves.items())

    def _singles(self, at: tuple[int, ...]) -> tuple[IntArray, IntArray]:
        """All swaps of one option for another of its group: old and new columns."""
        columns = self.problem.columns
        old, new = [], []
        for column in at:
            if column >= columns.options:
                continue
            group = int(columns.first[column])
            start = int(columns.starts[group])
            others = np.arange(start, start + len(self.problem.groups[group]))
            others = others[(others != column) & columns.allowed[others]]
            old.append(np.full(len(others), column))
            new.append(others)
        if not old:
            return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
        return np.concatenate(old), np.concatenate(new)

    def _pairs(
        self, old: IntArray, gain: FloatArray, cost: FloatArray, room: FloatArray
    ) -> list[tuple[tuple[int, ...], float]]:
        """Pairs of swaps of two groups of which one frees what the other needs."""
        few = np.argsort(gain + self._noise(gain), kind="stable")[:_SINGLES_IN_PAIRS]
        freeing = (cost < 0).any(axis=0)
        spare = np.flatnonzero(freeing)
        order = np.argsort(gain[spare] + self._noise(gain[spare]), kind="stable")
        spare = spare[order][:_SINGLES_IN_PAIRS]
        needing = few[(gain[few] < 0) | (cost[:, few] > 0).any(axis=0)]
        if not needing.size or not spare.size:
            return []
        fits = old[needing][:, None] != old[spare][None, :]
        for row, left in zip(cost, room, strict=True):
            fits &= row[needing][:, None] + row[spare][None, :] <= left
        total = gain[needing][:, None] + gain[spare][None, :]
        left_at, right_at = np.nonzero(fits)
        best = np.argsort(total[left_at, right_at], kind="stable")[:_SINGLES_IN_PAIRS]
        return [
            (
                tuple(sorted((int(needing[left_at[i]]), int(spare[right_at[i]])))),
                float(total[left_at[i], right_at[i]]),
            )
            for i in best
        ]

    def _order(
        self, candidates: list[tuple[tuple[int, ...], float]]
    ) -> list[tuple[tuple[int, ...], float]]:
        """Lowest estimated score first, with a little noise, since scores are only estimates."""
        if not candidates:
            return []
        gains = np.array([gain for _, gain in candidates])
        order = np.argsort(gains + self._noise(gains), kind="stable")
        return [candidates[i] for i in order]

    def _noise(self, gain: FloatArray) -> FloatArray:
        scale = float(np.median(np.abs(gain))) if gain.size else 0.0
        return self.random.normal(0.0, 0.1 * scale, gain.shape)

    def _apply(
        self, at: tuple[int, ...], old: IntArray, new: IntArray, swaps: tuple[int, ...]
    ) -> Move:
        replaced = {int(old[i]): int(new[i]) for i in swaps}
        words = []
        for before, after in replaced.items():
            group = int(self.problem.columns.first[before])
            start = int(self.problem.columns.starts[group])
            labels = self.problem.groups[group]
            words.append(f"group {group}: {labels[before - start]} -> {labels[after - start]}")
        return tuple(replaced.get(column, column) for column in at), "; ".join(words)

    def _is_allowed(self, selection: tuple[int, ...]) -> bool:
        # Limits were checked already, and pins are not touched.
        return not (self.problem.distinct_bounds and self.problem.broken(selection))
