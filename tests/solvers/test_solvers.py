"""Claims about the solvers, against brute force."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import (
    ChoiceProblem,
    InfeasibleError,
    Limit,
    NoSolutionError,
    Status,
    available_solvers,
    solve,
)

NUMBERS = st.integers(-20, 20)


@st.composite
def problems(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    n = sum(sizes)
    column = st.lists(NUMBERS, min_size=n, max_size=n)
    resources = {"a": draw(column), "b": draw(column)}
    limits = [Limit("a", at_most=draw(NUMBERS))]
    if draw(st.booleans()):
        low = draw(NUMBERS)
        limits.append(Limit("b", at_least=low, at_most=low + draw(st.integers(0, 20))))
    groups = tuple(tuple(f"o{i}" for i in range(size)) for size in sizes)
    return ChoiceProblem(groups, draw(column), resources, tuple(limits), {"a": draw(NUMBERS)})


def brute_force(problem):
    """Returns the least score of the choices within the limits, or None."""
    best = None
    for choices in itertools.product(*(range(len(group)) for group in problem.groups)):
        score, totals = problem.evaluate(choices)
        fits = all(
            (limit.at_most is None or totals[limit.resource] <= limit.at_most)
            and (limit.at_least is None or totals[limit.resource] >= limit.at_least)
            for limit in problem.limits
        )
        if fits and (best is None or score < best):
            best = score
    return best


@pytest.mark.parametrize("solver", available_solvers())
@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_the_optimum_is_that_of_brute_force(solver, problem):
    expected = brute_force(problem)
    if expected is None:
        with pytest.raises(InfeasibleError):
            solve(problem, solver=solver)
        return
    solution = solve(problem, solver=solver)
    assert solution.status is Status.OPTIMAL
    assert solution.objective == pytest.approx(expected, abs=1e-9)
    assert solution.bound == solution.objective
    assert min(solution.slack.values()) >= -1e-6


def test_highs_is_there():
    assert "highs" in available_solvers()


def test_scores_of_1e_minus_5_beside_1e9_parameters_are_still_told_apart():
    rng = np.random.default_rng(0)
    groups = tuple(("a", "b", "c") for _ in range(6))
    score = rng.uniform(1e-6, 1e-5, 18)
    size = rng.uniform(1e8, 1e9, 18)
    problem = ChoiceProblem(groups, score, {"parameters": size}, (Limit("parameters", 2.4e9),))
    assert solve(problem).objective == pytest.approx(brute_force(problem), rel=1e-9)


def hard_problem():
    """Forty groups and six tight equalities: far from solved in a second."""
    rng = np.random.default_rng(1)
    groups = tuple(tuple(f"o{i}" for i in range(8)) for _ in range(40))
    resources = {f"r{k}": rng.integers(1, 1000, 320) for k in range(6)}
    limits = tuple(Limit(name, at_most=40 * 400, at_least=40 * 396) for name in resources)
    return ChoiceProblem(groups, rng.uniform(0, 1, 320), resources, limits)


def test_a_time_limit_is_never_reported_as_the_optimum():
    try:
        solution = solve(hard_problem(), time_limit=1.0)
    except NoSolutionError:
        return
    assert solution.status is Status.FEASIBLE
    assert solution.bound < solution.objective
    assert solution.gap > 0


def test_the_same_problem_and_seed_give_the_same_choices():
    rng = np.random.default_rng(2)
    groups = tuple(("a", "b", "c", "d") for _ in range(12))
    cost = rng.integers(1, 9, 48)
    problem = ChoiceProblem(groups, rng.integers(1, 9, 48), {"c": cost}, (Limit("c", 40),))
    assert solve(problem, seed=3).choices == solve(problem, seed=3).choices


def test_an_unreachable_limit_says_what_can_be_reached():
    problem = ChoiceProblem(
        (("a", "b"),), [0, 1], {"memory": [30, 20]}, (Limit("memory", 20),), {"memory": 2.4}
    )
    with pytest.raises(InfeasibleError, match=r"memory at most 20: .* takes is 22\.4"):
        solve(problem)


def test_limits_that_conflict_are_named_without_the_innocent():
    limits = (Limit("x", 1), Limit("y", 1), Limit("z", 99))
    resources = {"x": [0, 5], "y": [5, 0], "z": [1, 1]}
    with pytest.raises(InfeasibleError, match="x <= 1 and y <= 1 together"):
        solve(ChoiceProblem((("a", "b"),), [0, 1], resources, limits))


def test_bad_numbers_and_names_are_refused():
    groups = (("a", "b"), ("c",))
    with pytest.raises(ValueError, match="score of option 'c' of group 1 is nan"):
        ChoiceProblem(groups, [0, 1, np.nan], {})
    with pytest.raises(ValueError, match="did you mean 'memory'"):
        ChoiceProblem(groups, [0, 1, 2], {"memory": [1, 2, 3]}, (Limit("memmory", 3),))
    with pytest.raises(ValueError, match="no bound"):
        Limit("memory")
    with pytest.raises(ValueError, match="allowed: \\['cbc', 'highs'\\]"):
        solve(ChoiceProblem(groups, [0, 1, 2], {}), solver="simplex")


def test_importing_solvers_imports_neither_torch_nor_puzzle():
    barred = ("torch", "puzzle", "search_space")
    code = f"import sys, solvers; print([m for m in {barred} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
