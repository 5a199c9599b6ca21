"""Refinement: never worse, within the limits, within the budget, resumable, deterministic."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solvers import ChoiceProblem, Limit, Span, refine, solve
from tests.factories.choice_problems import knapsack, problems, solutions


def truth(problem: ChoiceProblem, seed: int = 0, noise: float = 0.3):
    """A measure that scores only resemble."""
    shift = np.random.default_rng(seed).normal(0.0, noise * np.ptp(problem.score), problem.size)

    def measure(choices):
        chosen = problem.starts + np.array(choices)
        return float((problem.score + shift)[chosen].sum())

    return measure


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problem=problems(), seed=st.integers(0, 5), budget=st.integers(1, 40))
def test_never_worse_than_the_start_and_within_everything(
    problem: ChoiceProblem, seed: int, budget: int
) -> None:
    found = solutions(problem)
    if not found:
        return
    random = np.random.default_rng(seed)
    start = found[int(random.integers(len(found)))][1]
    values: dict[object, float] = {}
    calls = []

    def measure(*pick: object) -> float:
        calls.append(pick)
        return values.setdefault(pick, float(random.normal()))

    solution = solve(problem, start=None)
    begin = start[0] if not problem.spans else solution
    refined = refine(problem, begin, [measure, measure], budget, seed=seed)
    assert refined.value <= refined.start_value
    assert len(refined.evaluations) == len(calls) <= budget
    for evaluation in refined.evaluations:
        assert problem.violations(evaluation.choices, evaluation.spans) == ()
    costly = [e.value for e in refined.evaluations if e.level == 1]
    assert refined.value == min(costly)


def test_trading_between_two_groups_finds_what_single_swaps_cannot() -> None:
    # Exactly one "big" fits and exactly one is asked for: only a pair of swaps moves it.
    problem = ChoiceProblem(
        (("big", "small"),) * 5,
        [0.0, 1.0] * 5,
        {"r": [2.0, 1.0] * 5},
        limits=(Limit("r", at_most=6, at_least=6),),
    )
    best = refine(problem, [0, 1, 1, 1, 1], lambda c: -float(c.index(0)), 60)
    assert best.choices == (1, 1, 1, 1, 0)
    assert "big -> small" in best.evaluations[1].move


def test_the_optimum_of_the_measure_is_found_on_a_small_problem() -> None:
    problem = knapsack(2, 5, 3, 1)
    measure = truth(problem)
    best = min(measure(pick[0]) for _, pick in solutions(problem))
    refined = refine(problem, solve(problem), measure, 250)
    assert refined.value == pytest.approx(best)


def test_the_same_seed_gives_the_same_search() -> None:
    problem = knapsack(3, 10, 4, 2)
    runs = [refine(problem, solve(problem), truth(problem), 60, seed=s) for s in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0].evaluations != runs[2].evaluations


def test_dear_measures_see_only_the_better_half() -> None:
    problem = knapsack(3, 10, 4, 2)
    measure = truth(problem)
    refined = refine(problem, solve(problem), [measure] * 3, 1 + 8 + 4 + 2, width=8)
    levels = [evaluation.level for evaluation in refined.evaluations]
    assert levels == [2, *[0] * 8, *[1] * 4, *[2] * 2]
    cheap = sorted(e.value for e in refined.evaluations if e.level == 0)
    assert sorted(e.value for e in refined.evaluations if e.level == 1) == cheap[:4]


def test_a_killed_run_resumes_without_measuring_again(tmp_path: Path) -> None:
    problem = knapsack(4, 10, 4, 2)
    whole = refine(problem, solve(problem), truth(problem), 50)
    log = tmp_path / "log.jsonl"
    calls = 0

    def dying(choices):
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt
        return truth(problem)(choices)

    with pytest.raises(KeyboardInterrupt):
        refine(problem, solve(problem), dying, 50, log=log)
    with log.open("a") as file:
        file.write('{"level": 0, "cho')
    assert refine(problem, solve(problem), dying, 50, log=log) == whole
    assert calls == 20 + 31
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines == [evaluation.to_dict() for evaluation in whole.evaluations]


def test_a_result_that_is_no_number_rejects_the_move(caplog: pytest.LogCaptureFixture) -> None:
    problem = knapsack(5, 6, 3, 1)
    start = solve(problem)

    def measure(choices):
        return 1.0 if choices == start.choices else math.nan

    refined = refine(problem, start, measure, 20)
    assert (refined.choices, refined.accepted) == (start.choices, 0)
    assert {e.value for e in refined.evaluations[1:]} == {None}
    assert "gave nan" in caplog.text


def test_spans_stay_and_reach_the_measure() -> None:
    problem = ChoiceProblem(
        (("a", "b"),) * 4, [0.0, 1.0] * 4, spans=(Span(1, 2, "s", -5.0),), pinned={0: 0}
    )
    seen = []

    def measure(choices, spans):
        seen.append((choices[:3], spans))
        return -float(choices[3])

    assert refine(problem, solve(problem), measure, 5).choices == (0, None, None, 1)
    assert set(seen) == {((0, None, None), (0,))}


def test_bad_input_is_refused(tmp_path: Path) -> None:
    problem = knapsack(6, 4, 3, 1)
    start = solve(problem)
    measure = truth(problem)
    with pytest.raises(ValueError, match="the start breaks"):
        refine(problem.with_limits([Limit("r0", at_most=0)]), start, measure, 5)
    with pytest.raises(ValueError, match="start's measurement is not a finite number"):
        refine(problem, start, lambda choices: math.inf, 5)
    for changes in ({"budget": 0}, {"width": 0}, {"measure": []}):
        with pytest.raises(ValueError, match="give "):
            refine(problem, **({"start": start, "measure": measure, "budget": 5} | changes))
    log = tmp_path / "log.jsonl"
    log.write_text('{"level": 0, "choices": [0], "spans": [], "value": 1, "move": ""}\n')
    with pytest.raises(ValueError, match=r"line 1 of .* is not an evaluation of this problem"):
        refine(problem, start, measure, 5, log=log)
