"""Pins, counts, spans and bounds on distinct choices: what they mean, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest

from solvers import ChoiceProblem, Distinct, InfeasibleError, Limit, Span, solve

LAYERS = ChoiceProblem(
    groups=(("gqa8", "gqa2", "none"),) * 4,
    score=[0.0, 1.0, 5.0] * 2 + [0.0, 2.0, 3.0] * 2,
    resources={"memory": [8, 2, 0] * 4},
)
FUSED = Span(1, 2, "fused", 1.5, {"memory": 3.0})


def test_kept_groups_stay_at_the_first_option_or_a_named_one() -> None:
    limited = LAYERS.with_limits([Limit("memory", at_most=20)])
    assert solve(limited.keep([0, -1])).labels[::3] == ("gqa8", "gqa8")
    assert solve(limited.keep([0], "none").keep([-1], 1)).labels[::3] == ("none", "gqa2")


def test_a_count_bounds_the_number_of_attention_layers() -> None:
    counted = LAYERS.with_count("attention", lambda label: label != "none", at_most=2)
    solution = solve(counted)
    assert solution.resources["attention"] == 2
    assert solution.labels == ("gqa8", "gqa8", "none", "none")
    at_least = LAYERS.with_count("attention", lambda label: label == "none", at_least=3)
    assert solve(at_least).labels.count("none") == 3


def test_one_distinct_choice_is_the_best_label_that_all_groups_share() -> None:
    limited = LAYERS.with_limits([Limit("memory", at_most=20)])
    assert set(solve(dataclasses.replace(limited, distinct=1)).labels) == {"gqa2"}
    assert len(set(solve(dataclasses.replace(limited, distinct=2)).labels)) == 2
    ends = dataclasses.replace(limited, distinct=Distinct(1, groups=(0, -1)), pinned={0: 2})
    assert solve(ends).labels[3] == "none"


def test_kinds_bound_the_kinds_and_leave_labels_free() -> None:
    kinds = {"gqa8": "attention", "gqa2": "attention", "none": "none"}
    problem = dataclasses.replace(LAYERS, distinct=Distinct(1, kinds=kinds)).with_limits(
        [Limit("memory", at_most=20)]
    )
    labels = solve(problem).labels
    assert "none" not in labels
    assert len(set(labels)) == 2


def test_labels_without_a_kind_mix_with_the_one_that_counts() -> None:
    kinds = {"gqa8": "gqa8", "gqa2": "gqa2", "none": None}
    for budget in range(13, 34):
        limits = (Limit("memory", at_most=budget),)
        problem = dataclasses.replace(LAYERS, distinct=Distinct(1, kinds=kinds), limits=limits)
        labels = [("gqa8", "none"), ("gqa2", "none")]
        of_one_kind = {c for pair in labels for c in itertools.product(pair, repeat=4)}
        choices = [tuple(map(LAYERS.groups[0].index, c)) for c in of_one_kind]
        allowed = [problem.evaluate(c)[0] for c in choices if not problem.violations(c)]
        if allowed:
            assert solve(problem).objective == pytest.approx(min(allowed))


def test_a_span_takes_the_place_of_its_groups_and_is_reported() -> None:
    problem = dataclasses.replace(LAYERS, spans=(FUSED,)).with_limits([Limit("memory", at_most=19)])
    solution = solve(problem)
    assert solution.choices == (0, None, None, 0)
    assert solution.labels == ("gqa8", "fused", "fused", "gqa8")
    assert (solution.spans, solution.objective) == ((0,), 1.5)
    assert problem.evaluate(solution.choices, solution.spans) == (1.5, {"memory": 19.0})
    assert solution.to_dict()["choices"] == [0, None, None, 0]
    assert solve(problem.keep([1])).spans == ()


def test_bounds_with_spans_and_pins_are_reached() -> None:
    cheap = Span(0, 3, "drop", 99.0, {"memory": -1.0})
    dear = Span(2, 3, "wide", 9.0, {"memory": 50.0})
    problem = dataclasses.replace(LAYERS, spans=(FUSED, cheap, dear))
    assert problem.bounds("memory") == (-1.0, 66.0)
    assert problem.keep([0]).bounds("memory") == (8.0, 66.0)
    assert problem.keep([-1]).bounds("memory") == (8.0, 32.0)


def test_violations_are_named() -> None:
    problem = dataclasses.replace(
        LAYERS, pinned={0: 0}, distinct=1, limits=(Limit("memory", at_most=9, at_least=1),)
    )
    assert problem.violations([2, 2, 2, 2]) == ("memory >= 1", "pins of groups 0")
    assert problem.violations([0, 1, 1, 1]) == ("memory <= 9", "at most 1 distinct choice")
    assert problem.violations([0, 0, 0, 0]) == ("memory <= 9",)


@pytest.mark.parametrize(
    ("choices", "spans", "message"),
    [
        ((0, None, None, 0), (), "group 1 is covered 0 times"),
        ((0, 0, None, 0), (0,), "group 1 is covered 2 times"),
        ((0, None, None, 0), (1,), "span 1 does not exist"),
        ((0, None, None, 0), (0, 0), "group 1 is covered 2 times"),
    ],
)
def test_covers_that_are_none_are_refused(choices: Any, spans: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LAYERS, spans=(FUSED,)).evaluate(choices, spans)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pinned": {4: 0}}, "pinned group 4 does not exist; give -4 to 3"),
        ({"pinned": {0: 3}}, "pinned to option 3; give 0 to 2"),
        ({"pinned": {0: "gqa4"}}, "pinned to 'gqa4', which it lacks; its options: 'gqa8'"),
        ({"pinned": {3: 0, -1: 1}}, "group 3 is pinned to two options"),
        ({"distinct": 0}, "at_most is 0; give 1 or more"),
        ({"distinct": Distinct(1, groups=(4,))}, "count group 4, which does not exist"),
        ({"distinct": Distinct(1, kinds={"gqa8": "a"})}, "no entry for label 'gqa2'"),
        ({"spans": (Span(2, 4, "s", 0.0, {"memory": 0.0}),)}, "goes past the last group, 3"),
        ({"spans": (Span(2, 3, "s", math.nan, {"memory": 0.0}),)}, "score of span 's'.* is nan"),
        ({"spans": (Span(2, 3, "s", 0.0, {"memory": math.inf}),)}, "'memory' of span 's'.* inf"),
        ({"spans": (Span(2, 3, "s", 0.0, {}),)}, r"has resources \[\]; give one value for each"),
    ],
)
def test_malformed_features_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LAYERS, **changes)


@pytest.mark.parametrize(("first", "last"), [(1, 1), (2, 1), (-1, 2)])
def test_spans_of_less_than_two_groups_are_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="a span covers two groups or more"):
        Span(first, last, "s", 0.0)


def test_conflicting_pins_and_second_resources_are_refused() -> None:
    with pytest.raises(ValueError, match="group 0 is pinned to another option already"):
        LAYERS.keep([0]).keep([0], 1)
    with pytest.raises(ValueError, match="'memory' is there already"):
        LAYERS.with_count("memory", bool)
    with pytest.raises(InfeasibleError):
        solve(dataclasses.replace(LAYERS, distinct=1, pinned={0: 0, 1: 1}))
