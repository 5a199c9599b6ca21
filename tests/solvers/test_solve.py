"""Solving: against brute force, across scales, under time limits, and when nothing fits."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from solvers import (
    ChoiceProblem,
    Distinct,
    InfeasibleError,
    Limit,
    NoSolutionError,
    SolverMissingError,
    Span,
    Status,
    available_solvers,
    solve,
)
from tests.factories.choice_problems import brute_force, knapsack, market_split, problems

SOLVERS = available_solvers()


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problem=problems())
def test_agrees_with_brute_force(solver: str, problem: ChoiceProblem) -> None:
    best = brute_force(problem)
    if best is None:
        with pytest.raises(InfeasibleError):
            solve(problem, solver=solver)
        return
    solution = solve(problem, solver=solver)
    assert solution.status is Status.OPTIMAL
    assert solution.objective == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert solution.bound <= solution.objective
    again = problem.evaluate(solution.choices, solution.spans)
    assert again == (solution.objective, solution.resources)
    assert problem.violations(solution.choices, solution.spans) == ()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "problem",
    [knapsack(0, 150, 10, 20), market_split(0, 50, 6)],
    ids=["knapsack", "market-split"],
)
def test_time_limit_never_claims_optimality(solver: str, problem: ChoiceProblem) -> None:
    try:
        solution = solve(problem, solver=solver, time_limit=0.5)
    except NoSolutionError as error:
        assert "0.5 seconds" in str(error)  # noqa: PT017 - either ending is right
        return
    assert solution.status is Status.FEASIBLE
    assert solution.bound < solution.objective
    assert solution.gap > 0.0
    assert min(solution.slack.values()) >= -1e-3


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_gap_is_kept(solver: str) -> None:
    problem = knapsack(1, 40, 6, 3)
    solution = solve(problem, solver=solver, gap=0.05, time_limit=60)
    assert solution.status is Status.OPTIMAL
    assert 0.0 <= solution.gap <= 0.05 + 1e-9


@pytest.mark.parametrize("solver", SOLVERS)
def test_billions_of_parameters_next_to_tiny_scores(solver: str) -> None:
    rng = np.random.default_rng(5)
    parameters = rng.integers(1_000_000, 1_000_000_000, 4 * 6)
    problem = ChoiceProblem(
        groups=(("a", "b", "c", "d"),) * 6,
        score=1e-5 * rng.random(24) + 1e-5 * (1e9 / parameters),
        resources={"parameters": parameters, "seconds": rng.random(24) * 1e-6},
        offsets={"parameters": 3e9},
        limits=(Limit("parameters", at_most=4.5e9), Limit("seconds", at_most=3e-6)),
    )
    solution = solve(problem, solver=solver)
    assert solution.objective == pytest.approx(brute_force(problem), rel=1e-12)
    assert solution.resources["parameters"] <= 4.5e9


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_limit_equal_to_the_only_total_is_met(solver: str) -> None:
    rng = np.random.default_rng(2)
    values = rng.random(30)
    problem = ChoiceProblem(groups=(("a", "b", "c"),) * 10, score=-values, resources={"r": values})
    least = problem.bounds("r")[0]
    solution = solve(problem.with_limits([Limit("r", at_most=least)]), solver=solver)
    assert solution.resources["r"] == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("score", [0.0, 7.0])
def test_a_constant_objective_is_fine(solver: str, score: float) -> None:
    problem = ChoiceProblem(
        groups=(("a", "b"),) * 3,
        score=[score] * 6,
        resources={"r": [1, 2] * 3, "fixed": [1] * 6},
        limits=(Limit("r", at_least=6), Limit("fixed", at_most=3)),
    )
    solution = solve(problem, solver=solver)
    assert solution.labels == ("b", "b", "b")
    assert solution.bound == solution.objective == 3 * score
    assert solution.slack == {"r >= 6": 0.0, "fixed <= 3": 0.0}


def test_without_limits_each_group_takes_its_best() -> None:
    problem = ChoiceProblem(groups=(("a", "b"), ("c",), ("d", "e")), score=[2, 1, 5, 3, 3])
    solution = solve(problem)
    assert solution.choices == (1, 0, 0)
    assert (solution.status, solution.gap) == (Status.OPTIMAL, 0.0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_same_seed_same_choices(solver: str) -> None:
    problem = ChoiceProblem(
        groups=(("a", "b", "c"),) * 12,
        score=[1, 1, 1] * 12,
        resources={"r": [3, 2, 1] * 12},
        limits=(Limit("r", at_most=25),),
    )
    runs = {solve(problem, solver=solver, seed=3, threads=t).choices for t in (1, 1, 1)}
    assert len(runs) == 1


def test_threads_may_change_between_calls() -> None:
    problem = knapsack(3, 10, 4, 2)
    objectives = {solve(problem, threads=threads).objective for threads in (1, 2, None, 1)}
    assert len(objectives) == 1


SMALL = ChoiceProblem(
    groups=(("big", "small"),) * 2,
    score=[0.0, 1.0, 0.0, 1.0],
    resources={"memory": [8.0, 1.2, 8.0, 1.2]},
    limits=(Limit("memory", at_most=10),),
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "gurobi"}, "unknown solver 'gurobi'; choose one of highs, scipy, cbc"),
        ({"time_limit": 0.0}, "time_limit is 0"),
        ({"gap": -0.1}, "gap is -0.1"),
        ({"threads": 0}, "threads is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"solver": "pulp:HIGHSS"}, "PuLP knows no solver 'HIGHSS'"),
        ({"start": [0]}, "1 choices given for 2 groups"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(SMALL, **arguments)  # type: ignore[arg-type]


def test_a_missing_solver_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solvers._pulp.cbc_path", lambda: None)
    assert "cbc" not in available_solvers()
    with pytest.raises(SolverMissingError, match="pip install"):
        solve(SMALL, solver="cbc")


def test_importing_solvers_imports_neither_torch_nor_puzzle() -> None:
    code = (
        "import sys, solvers; "
        "print([m for m in ('torch', 'puzzle', 'search_space') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_choice_exactly_on_the_limit_is_not_lost(solver: str) -> None:
    # Found by hypothesis: thirds, written as 12 digits, put CBC a hair past the limit.
    problem = ChoiceProblem(
        groups=(("a", "b"), ("a", "b", "c")),
        score=[0, 0, 0, 1, 0],
        resources={"r": [3, -5, -2, -6, 6]},
        limits=(Limit("r", at_most=0, at_least=-7),),
    )
    assert solve(problem, solver=solver).objective == 0.0


@pytest.mark.parametrize("solver", SOLVERS)
def test_kinds_beside_a_span_are_not_substituted_away(solver: str) -> None:
    # Preprocessing made CBC 2.10.3 call 0.0 optimal here.
    problem = ChoiceProblem(
        groups=(("o0", "o1", "o2"), ("o0", "o1"), ("o0", "o1", "o2"), ("o0", "o1", "o2", "o3")),
        score=[0, 0, -2, 0, 0, 0, 0, 1, 0, 0, 0, 0],
        resources={"a": [0] * 12, "b": [2, -4, 0, 0, -5, 0, 0, -4, 8, 8, 8, 8]},
        limits=(Limit("b", at_most=0),),
        spans=(Span(0, 1, "s", 0.0, {"a": 0.0, "b": 0.0}),),
        distinct=Distinct(1, groups=(0, -1)),
    )
    assert solve(problem, solver=solver).objective == -1.0


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_answer_that_only_tightened_bounds_show_is_infeasible(solver: str) -> None:
    # Without preprocessing, CBC 2.10.3 leaves no file behind here.
    problem = ChoiceProblem(
        groups=(("o0",), ("o0", "o1", "o2", "o3"), ("o0", "o1", "o2")),
        score=[8, 9, -9, -4, -1, -6, -6, -7],
        resources={"b": [-9, 5, -5, 1, 1, 5, 6, -2]},
        offsets={"b": 4.0},
        limits=(Limit("b", at_most=9, at_least=7),),
        pinned={2: 0},
        spans=(
            Span(0, 2, "s0", 9.0, {"b": 8.0}),
            Span(1, 2, "s1", -2.0, {"b": -4.0}),
            Span(0, 1, "s2", -12.0, {"b": 8.0}),
        ),
        distinct=Distinct(1, groups=(0, -1)),
    )
    with pytest.raises(InfeasibleError):
        solve(problem, solver=solver)


@pytest.mark.parametrize("solver", SOLVERS)
def test_nothing_is_printed(solver: str) -> None:
    # In a process of its own: HiGHS prints its banner only once.
    code = (
        "from solvers import ChoiceProblem, Limit, solve; "
        "solve(ChoiceProblem((('a', 'b'),), [0, 1], {'r': [2, 1]}, "
        f"limits=(Limit('r', at_most=1),)), solver={solver!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
