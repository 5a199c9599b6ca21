"""Reading how a run ended, for PuLP 3 and PuLP 4; and the second try after an overstep."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from solvers import ChoiceProblem, InfeasibleError, Limit, NoSolutionError, Status, solve
from solvers import _search as search_module
from solvers._highs import run_highs
from solvers._model import Variation, build_program
from solvers._pulp import read_outcome
from solvers._settings import BackendResult, Ending, Settings
from tests.factories.choice_problems import knapsack

# With "a" the limit holds only beside "y", which is worse than all else.
PROBLEM = ChoiceProblem(
    groups=(("a", "b", "c"), ("x", "y")),
    score=[0.0, 1.0, 2.0, 0.0, 3.0],
    resources={"r": [3.0, 2.0, 1.0, 0.5, 0.0]},
    limits=(Limit("r", at_most=3.0),),
)


@pytest.mark.parametrize(
    ("status", "has_solution", "ending"),
    [
        ("Optimal", True, Ending.OPTIMAL),
        ("TimeLimit", True, Ending.STOPPED),
        ("GapLimit", True, Ending.STOPPED),
        ("TimeLimit", False, Ending.NOTHING),
        ("Infeasible", False, Ending.INFEASIBLE),
        ("Undefined", False, Ending.NOTHING),
    ],
)
def test_pulp_4_stats(status: str, has_solution: bool, ending: Ending) -> None:
    stats = SimpleNamespace(
        status=SimpleNamespace(name=status), has_solution=has_solution, best_bound=0.0
    )
    # PuLP 4 problems have no status; touching it would fail.
    assert read_outcome(SimpleNamespace(), stats) == (ending, 0.0)


@pytest.mark.parametrize(
    ("status", "sol_status", "ending"),
    [
        (1, 1, Ending.OPTIMAL),
        (1, 2, Ending.STOPPED),
        (0, 0, Ending.NOTHING),
        (-1, -1, Ending.INFEASIBLE),
        (-1, 0, Ending.INFEASIBLE),
    ],
)
def test_pulp_3_attributes(status: int, sol_status: int, ending: Ending) -> None:
    prob = SimpleNamespace(status=status, sol_status=sol_status)
    assert read_outcome(prob, 1) == (ending, None)


def scripted(monkeypatch: pytest.MonkeyPatch, *outcomes: BackendResult) -> list[Any]:
    programs: list[Any] = []

    def run(program: Any, *rest: Any) -> BackendResult:
        programs.append(program)
        return outcomes[min(len(programs), len(outcomes)) - 1]

    monkeypatch.setattr(search_module, "run_program", run)
    return programs


def test_an_answer_past_the_limit_is_cut_off_and_the_bound_still_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = BackendResult(ending=Ending.OPTIMAL, bound=0.0, selection=(0, 3))
    right = BackendResult(ending=Ending.OPTIMAL, bound=0.5, selection=(1, 3))
    programs = scripted(monkeypatch, wrong, right)
    solution = solve(PROBLEM)
    cut = programs[1].rows[-1]
    assert (cut.at.tolist(), cut.upper) == ([0, 3], 1.0)
    assert (solution.choices, solution.status, solution.bound) == ((1, 0), Status.OPTIMAL, 1.0)


def test_many_answers_past_the_limit_tighten_it_and_prove_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = BackendResult(ending=Ending.STOPPED, bound=0.0, selection=(0, 3))
    right = BackendResult(ending=Ending.OPTIMAL, bound=0.5, selection=(1, 3))
    programs = scripted(monkeypatch, *[wrong] * 4, right)
    solution = solve(PROBLEM)
    limit = len(PROBLEM.groups)  # the rows of the groups come first
    assert programs[4].rows[limit].upper < programs[0].rows[limit].upper
    assert (solution.choices, solution.status, solution.bound) == ((1, 0), Status.FEASIBLE, 0.0)


def test_answers_past_the_limit_without_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, BackendResult(ending=Ending.OPTIMAL, bound=0.0, selection=(0, 3)))
    with pytest.raises(NoSolutionError, match=r"repeatedly gave .* breaks r <= 3"):
        solve(PROBLEM)


def test_no_room_in_tightened_limits_is_not_called_infeasible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = BackendResult(ending=Ending.OPTIMAL, bound=0.0, selection=(0, 3))
    scripted(monkeypatch, *[wrong] * 4, BackendResult(ending=Ending.INFEASIBLE, bound=None))
    with pytest.raises(NoSolutionError):
        solve(PROBLEM)


def test_stopping_early_with_a_choice_is_feasible_with_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripted(monkeypatch, BackendResult(ending=Ending.STOPPED, bound=0.25, selection=(2, 3)))
    solution = solve(PROBLEM, time_limit=1.0)
    assert (solution.status, solution.bound, solution.gap) == (Status.FEASIBLE, 1.0, 0.5)


def test_a_start_is_returned_when_the_solver_finds_nothing_or_worse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for outcome in (
        BackendResult(ending=Ending.NOTHING, bound=0.0),
        BackendResult(ending=Ending.STOPPED, bound=0.0, selection=(2, 3)),
    ):
        scripted(monkeypatch, outcome)
        solution = solve(PROBLEM, time_limit=1.0, start=[1, 0])
        assert (solution.status, solution.objective) == (Status.FEASIBLE, 1.0)


def test_a_start_that_breaks_a_limit_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, BackendResult(ending=Ending.NOTHING, bound=None))
    with pytest.raises(NoSolutionError):
        solve(PROBLEM, time_limit=1.0, start=[0, 0])


def test_infeasible_ending_is_an_infeasible_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, BackendResult(ending=Ending.INFEASIBLE, bound=None))
    with pytest.raises(InfeasibleError):
        solve(PROBLEM)


def test_highs_takes_the_start_as_its_first_solution() -> None:
    problem = knapsack(1, 40, 6, 3)
    best = solve(problem, gap=0.01)
    columns = problem.columns
    program = build_program(problem, Variation())
    # Without nodes and heuristics HiGHS has only what it was given.
    idle = {"mip_max_nodes": 0, "mip_heuristic_effort": 0.0, "presolve": "off"}
    start = problem.selection(best.choices)
    outcome = run_highs(program, columns, Settings(options=idle), start)
    assert outcome.selection is not None
    assert problem.total(outcome.selection)[0] <= best.objective
    assert run_highs(program, columns, Settings(options=idle), None).selection is None
