"""Reading how a run ended, for PuLP 3 and PuLP 4; and the second try after an overstep."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from solvers import ChoiceProblem, InfeasibleError, Limit, NoSolutionError, Status, solve
from solvers import _search as search_module
from solvers._pulp import Ending, Outcome, read_outcome

PROBLEM = ChoiceProblem(
    groups=(("a", "b", "c"),),
    score=[0.0, 1.0, 2.0],
    resources={"r": [3.0, 2.0, 1.0]},
    limits=(Limit("r", at_most=2.5),),
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
    assert read_outcome(SimpleNamespace(), stats) == Outcome(ending=ending, bound=0.0)


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
    assert read_outcome(prob, 1) == Outcome(ending=ending, bound=None)


def scripted(monkeypatch: pytest.MonkeyPatch, *outcomes: Outcome) -> list[Any]:
    models: list[Any] = []

    def run(model: Any, settings: Any) -> Outcome:
        models.append(model)
        return outcomes[len(models) - 1]

    monkeypatch.setattr(search_module, "run_model", run)
    return models


def test_an_answer_past_the_limit_is_solved_again_tighter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = Outcome(ending=Ending.OPTIMAL, bound=0.0, choices=(0,))
    right = Outcome(ending=Ending.OPTIMAL, bound=0.5, choices=(1,))
    models = scripted(monkeypatch, wrong, right)
    solution = solve(PROBLEM)
    assert models[1].rows[0][1] < models[0].rows[0][1]
    # The second run's bound holds for tighter limits only, so nothing is proved.
    assert (solution.choices, solution.status) == ((1,), Status.FEASIBLE)
    assert solution.bound == 0.0


def test_two_answers_past_the_limit_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Outcome(ending=Ending.OPTIMAL, bound=0.0, choices=(0,))
    scripted(monkeypatch, wrong, wrong)
    with pytest.raises(NoSolutionError, match=r"twice gave a choice that breaks r <= 2\.5"):
        solve(PROBLEM)


def test_stopping_early_with_a_choice_is_feasible_with_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripted(monkeypatch, Outcome(ending=Ending.STOPPED, bound=0.25, choices=(2,)))
    solution = solve(PROBLEM, time_limit=1.0)
    assert (solution.status, solution.bound, solution.gap) == (Status.FEASIBLE, 1.0, 0.5)


def test_infeasible_ending_is_an_infeasible_error(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, *[Outcome(ending=Ending.INFEASIBLE, bound=None)] * 9)
    with pytest.raises(InfeasibleError):
        solve(PROBLEM)
