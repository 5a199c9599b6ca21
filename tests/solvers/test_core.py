"""Claims about solving on a few columns first."""

import itertools

import numpy as np
import pytest

from solvers import ChoiceProblem, Limit, Status, solve
from solvers import _core as core
from solvers._highs import row_prices, run_highs
from solvers._model import Variation, build_program
from solvers._settings import Ending, Settings


def random_problem(seed, groups=12, options=24, limits=2, share=0.35):
    rng = np.random.default_rng(seed)
    use = {f"r{i}": rng.random(groups * options) for i in range(limits)}
    return ChoiceProblem(
        (tuple(map(str, range(options))),) * groups,
        rng.random(groups * options),
        use,
        limits=tuple(Limit(name, at_most=share * groups) for name in use),
    )


@pytest.mark.parametrize("per_group", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_core_gives_the_optimum_of_all_columns(seed, per_group, monkeypatch):
    monkeypatch.setattr(core, "_PER_GROUP", per_group)
    seen = []
    monkeypatch.setattr(core, "run_highs", lambda *of: seen.append(of[0]) or run_highs(*of))
    problem = random_problem(seed, share=0.2)
    program = build_program(problem, Variation())
    ours = core.run_core(program, problem.columns, Settings(), None)
    theirs = run_highs(program, problem.columns, Settings(), None)
    assert ours.ending is theirs.ending is Ending.OPTIMAL
    assert problem.total(ours.selection)[0] == pytest.approx(problem.total(theirs.selection)[0])
    assert ours.bound == pytest.approx(theirs.bound, abs=1e-9)
    assert len(seen) in (1, 2)
    assert len(seen[0].columns) < len(program.columns)


def test_what_no_better_choice_can_have_is_never_solved_for(monkeypatch):
    seen = []
    monkeypatch.setattr(core, "run_highs", lambda *of: seen.append(of[0]) or run_highs(*of))
    problem = random_problem(0, groups=60, options=40)
    program = build_program(problem, Variation())
    assert core.run_core(program, problem.columns, Settings(), None).ending is Ending.OPTIMAL
    assert len(seen) == 1
    assert 180 <= len(seen[0].columns) < len(program.columns) / 2


def test_no_solution_with_a_column_costs_less_than_its_price_says():
    problem = random_problem(0, groups=4, options=6)
    program = build_program(problem, Variation())
    prices = row_prices(program, Settings())
    noise = np.random.default_rng(1).normal(0.0, 0.1, len(prices))
    for tried in (prices, prices + noise, noise):
        bound, over = core.priced(program, tried)
        for selection in itertools.product(*(range(6 * g, 6 * g + 6) for g in range(4))):
            at = np.flatnonzero(np.isin(program.columns, selection))
            if len(at) == 4 and not problem.broken(selection):
                assert program.cost[at].sum() >= bound + over[at].max() - 1e-9
    # The prices of the linear relaxation are the best there are.
    assert core.priced(program, prices)[0] >= core.priced(program, prices + noise)[0] - 1e-9


def test_limits_that_cannot_be_met_in_the_core_are_met_outside(monkeypatch):
    """The cheapest columns at the prices need not hold any choice within the limits."""
    monkeypatch.setattr(core, "_PER_GROUP", 1)
    # Exactly 2.5 groups' worth: only the third kind of option can complete it.
    labels = (("none", "whole", "half", *map(str, range(5))),) * 3
    score = [1.0, 0.0, 0.9, *[5.0] * 5] * 3
    use = [0.0, 1.0, 0.5, *[0.25] * 5] * 3
    problem = ChoiceProblem(
        labels, score, {"r": use}, limits=(Limit("r", at_most=2.5, at_least=2.5),)
    )
    answer = solve(problem)
    assert answer.status is Status.OPTIMAL
    assert sorted(answer.labels) == ["half", "whole", "whole"]


@pytest.mark.parametrize("start", ["best", "other"])
def test_a_start_and_a_gap_keep_what_is_proved(start):
    problem = random_problem(7)
    best = solve(problem)
    given = best if start == "best" else solve(problem, gap=0.2)
    again = solve(problem, start=given)
    assert again.objective == pytest.approx(best.objective)
    near = solve(problem, gap=0.05, start=given)
    assert near.bound <= best.objective * (1 + 1e-9)
    assert near.objective <= best.objective * 1.0527
