"""Local search against what the user measures, within the limits of the problem."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solvers._checks import number
from solvers._moves import Moves
from solvers.mip import Start, read_start
from solvers.problem import ChoiceProblem

_LOGGER = logging.getLogger(__name__)

Measure = Callable[..., float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredChoice:
    """One call of one of the user's measures.

    Args:
        level: Position of the measure in the list; the last is the costliest.
        choices: The choice measured; None for groups that a span covers.
        spans: The chosen spans.
        value: What the measure returned; None if that was not a finite number, which rejects
            the choice.
        move: What was changed, in words.
    """

    level: int
    choices: tuple[int | None, ...]
    spans: tuple[int, ...]
    value: float | None
    move: str

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values that ``json`` can write.

        Returns:
            A dictionary with one entry for each field.
        """
        return {
            "level": self.level,
            "choices": list(self.choices),
            "spans": list(self.spans),
            "value": self.value,
            "move": self.move,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """The best choice that a local search measured.

    Args:
        choices: The choice; the start itself if no better one was measured.
        spans: Its spans.
        labels: What covers each group.
        value: Its value by the costliest measure.
        start_value: The start's value by the costliest measure.
        accepted: Number of moves taken.
        evaluations: Every measurement, those read back from a log included.
    """

    choices: tuple[int | None, ...]
    spans: tuple[int, ...]
    labels: tuple[str, ...]
    value: float
    start_value: float
    accepted: int
    evaluations: tuple[MeasuredChoice, ...]


def refine(
    problem: ChoiceProblem,
    start: Start,
    measure: Measure | Sequence[Measure],
    budget: int,
    *,
    width: int = 8,
    seed: int = 0,
    log: str | os.PathLike[str] | None = None,
) -> Refined:
    """Improve a choice by measuring small changes to it.

    Scores are estimates; a measure is the truth, or comes nearer to it. Each round proposes
    `width` moves within the limits: swaps of one group, and swaps of two that give one group what
    they take from another. Half of a round, the best by the first measure, goes on to the second,
    and so on (successive halving, Jamieson and Talwalkar 2016); the best by the last measure is
    kept if it is better than the present choice. The same seed and measures give the same search.

    Args:
        problem: The problem; limits, pins and the bound on distinct choices hold for all moves.
        start: A choice within the limits, or a solution.
        measure: One callable, or a list of ever costlier ones; each takes the choices (one index
            for each group), and the chosen spans too if the problem has spans, and returns a
            number, lower being better. A result that is not finite rejects the move.
        budget: How often measures may be called in all, the start's measurement included.
        width: Moves proposed in a round.
        seed: Seed of the proposals.
        log: Path of a file to which each evaluation is written as a line of JSON. If it holds
            evaluations of an earlier run, they are not measured again; they count in the budget.

    Returns:
        The best choice by the costliest measure, never worse than the start.

    Raises:
        ValueError: If the start breaks a limit or cannot be measured, an argument is out of
            range, or the log is not one of this problem.

    Example:
        >>> problem = ChoiceProblem((("a", "b"),) * 2, [0.0, 1.0, 0.0, 1.0])
        >>> refine(problem, [0, 0], lambda choices: -sum(choices), 20).choices
        (1, 1)
    """
    measures = [measure] if callable(measure) else list(measure)
    if not measures:
        raise ValueError("there are no measures; give a callable, or a list of them")
    if width < 1:
        raise ValueError(f"width is {width}; give the number of moves in a round, 1 or more")
    if budget < 1:
        raise ValueError(f"budget is {budget}; give a number of measurements, 1 or more")
    selection = read_start(problem, start)
    assert selection is not None
    broken = problem.broken(selection)
    if broken:
        raise ValueError(f"the start breaks {', '.join(broken)}; start within the limits")
    recorder = _Recorder(problem, measures, budget, None if log is None else Path(log).expanduser())
    return _climb(problem, selection, recorder, Moves(problem, seed), width)


def _climb(
    problem: ChoiceProblem,
    start: tuple[int, ...],
    recorder: _Recorder,
    moves: Moves,
    width: int,
) -> Refined:
    last = len(recorder.measures) - 1
    first = recorder.value(last, start, "start")
    if first is None:
        raise ValueError("the start's measurement is not a finite number; start from another")
    best, value, accepted = start, first, 0
    seen = {start}
    while recorder.left > 0:
        round_ = moves.propose(best, width, seen)
        if not round_:
            break
        seen.update(selection for selection, _ in round_)
        survivor = _best_of_round(round_, recorder)
        if survivor is not None and survivor[1] < value:
            (best, value), accepted = survivor, accepted + 1
            _LOGGER.info("measured %.6g after %d evaluations", value, len(recorder.done))
    choices, spans = problem.columns.split(best)
    return Refined(
        choices=choices,
        spans=spans,
        labels=problem.labels(choices, spans),
        value=value,
        start_value=first,
        accepted=accepted,
        evaluations=tuple(recorder.done),
    )


def _best_of_round(
    round_: list[tuple[tuple[int, ...], str]], recorder: _Recorder
) -> tuple[tuple[int, ...], float] | None:
    """Measure all cheaply, and the better half by the next measure, up to the costliest."""
    last = len(recorder.measures) - 1
    alive = round_
    for level in range(last + 1):
        measured = []
        for selection, move in alive:
            if recorder.left <= 0:
                break
            value = recorder.value(level, selection, move)
            if value is not None:
                measured.append((value, selection, move))
        measured.sort(key=lambda entry: entry[0])
        if not measured:
            return None
        if level == last:
            return measured[0][1], measured[0][0]
        better = measured[: math.ceil(len(measured) / 2)]
        alive = [(selection, move) for _, selection, move in better]
    return None


class _Recorder:
    """Calls the measures, counts and logs the calls, and reads back those of a killed run."""

    def __init__(
        self, problem: ChoiceProblem, measures: list[Measure], budget: int, log: Path | None
    ) -> None:
        self.problem, self.measures, self.log = problem, measures, log
        self.left = budget
        self.done: list[MeasuredChoice] = []
        self.known: dict[tuple[int, tuple[int, ...]], MeasuredChoice] = {}
        if log is not None and log.exists():
            self._read(log)

    def value(self, level: int, selection: tuple[int, ...], move: str) -> float | None:
        """Measure a selection, or look it up."""
        self.left -= 1
        known = self.known.get((level, selection))
        if known is not None:
            self.done.append(known)
            return known.value
        choices, spans = self.problem.columns.split(selection)
        raw = float(self._call(level, choices, spans))
        if not math.isfinite(raw):
            _LOGGER.warning("measure %d gave %s for %s; the move is rejected", level, raw, move)
        value = raw if math.isfinite(raw) else None
        done = MeasuredChoice(level=level, choices=choices, spans=spans, value=value, move=move)
        self.done.append(done)
        self.known[level, selection] = done
        if self.log is not None:
            # One write and one flush for each line: a killed run loses at most the last.
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done.to_dict()) + "\n")
        return value

    def _call(self, level: int, choices: tuple[int | None, ...], spans: tuple[int, ...]) -> float:
        if self.problem.spans:
            return self.measures[level](choices, spans)
        return self.measures[level](choices)

    def _read(self, log: Path) -> None:
        try:
            content = log.read_bytes()
            lines = content.decode().split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{log} is not a log of evaluations ({error}); give another path, or remove the "
                "file"
            ) from error
        whole = lines[:-1]
        if lines[-1]:
            # The run was killed while it wrote this line.
            _LOGGER.warning("%s ends in half a line, which is dropped", log)
            # Cut, not written again: a kill meanwhile loses no line that is whole.
            os.truncate(log, content.rfind(b"\n") + 1)
        for at, line in enumerate(whole, start=1):
            try:
                entry = json.loads(line)
                evaluation = MeasuredChoice(
                    level=int(entry["level"]),
                    choices=tuple(entry["choices"]),
                    spans=tuple(entry["spans"]),
                    value=_measured(entry["value"]),
                    move=str(entry["move"]),
                )
                selection = self.problem.selection(evaluation.choices, evaluation.spans)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                raise ValueError(
                    f"line {at} of {log} is not an evaluation of this problem ({error}); give "
                    "another path, or remove the file"
                ) from error
            self.known[evaluation.level, selection] = evaluation


def _measured(given: Any) -> float | None:
    """A measurement as the log holds it: a finite number, or None for a rejected move."""
    if given is None:
        return None
    value = number("value", given)
    if not math.isfinite(value):
        raise ValueError(f"value is {value}; a rejected move has none")
    return value
