"""Claims about rewards: what they pay for, and that no wrong answer is ever above a right one."""

import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puzzle.errors import DataError
from puzzle.posttraining.rewards import (
    Brief,
    Consistent,
    Correct,
    Formed,
    Overlong,
    math_equal,
)

SIZE = 4
OVERLONG = Overlong(most=30, buffer=20)
REWARDS = (Correct(), Consistent(), Brief(num_generations=SIZE), OVERLONG)
PARTS = ["2", "3", "1+1=2", "1+1=3", "</think>", "<think>", " so "]
texts = st.lists(st.sampled_from(PARTS), max_size=6)
groups = st.lists(texts.map("".join), min_size=2 * SIZE, max_size=2 * SIZE)
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PROMPTS = ["1+1="] * SIZE + ["2="] * SIZE


@BUSY
@given(groups, st.lists(st.floats(0, 10), min_size=4, max_size=4))
def test_no_wrong_answer_is_ever_above_a_right_one_whatever_the_weights(completions, weights):
    columns = {"prompts": PROMPTS, "completions": completions, "answer": ["2"] * 2 * SIZE}
    correct, *others = (reward(**columns) for reward in REWARDS)
    for rewards in others:
        assert all(0 <= value <= 1 for value in rewards)
    totals = [
        sum(w * v for w, v in zip(weights, values, strict=True))
        for values in zip(correct, *others, strict=True)
    ]
    wrong = [total for total, right in zip(totals, correct, strict=True) if not right]
    assert not any(wrong)
    assert all(total >= weights[0] for total, r in zip(totals, correct, strict=True) if r)


@BUSY
@given(groups, st.permutations(range(SIZE)))
def test_rewards_do_not_depend_on_the_order_within_a_group(completions, order):
    order = [*order, *range(SIZE, 2 * SIZE)]
    moved = [completions[place] for place in order]
    for reward in REWARDS:
        first = reward(PROMPTS, completions, answer=["2"] * 2 * SIZE)
        assert reward(PROMPTS, moved, answer=["2"] * 2 * SIZE) == [first[i] for i in order]


@pytest.mark.parametrize(
    ("prompt", "completion", "right"),
    [
        ("1+1=", "1+1=2</think>2", True),
        ("1+1=", "<think>1+1=2</think> 2 ", True),
        ("1+1=", "1+1=2</think>3", False),
        ("1+1=", "2", False),  # the thought goes on
        ("1+1= /no_think", "2", True),
        ("1+1= /no_think", "<think></think>2", True),
        ("1+1= /no_think", "<think>1+1=2</think>2", False),  # what was not wanted
        ([{"role": "user", "content": "/no_think 1+1="}], [{"content": "2"}], True),
        ([{"role": "user", "content": "1+1="}], [{"content": "so</think>2"}], True),
    ],
)
def test_an_answer_is_what_follows_a_thought_that_ends(prompt, completion, right):
    assert Correct()([prompt], [completion], answer=["2"]) == [float(right)]


def test_only_a_score_of_exactly_1_is_right():
    for score, right in ((1, 1.0), (0.99, 0.0), (0.1, 0.0)):
        reward = Correct(scorer=lambda answer, truth, score=score: score, thinking="off")
        assert reward(["q"], ["a"], answer=["a"]) == [right]


@pytest.mark.parametrize(
    ("thought", "share"),
    [
        ("1+2=3 3+4=7", 1.0),
        ("1+2=3+4=7", 1.0),
        ("1 + 2 * 3 = 7", 1.0),
        ("10-3=6, 6+1=7", 0.75),
        ("1+2=4 5-1=9 7", 0.5),
        ("1+2=3 so 9", 0.5),
        ("7", 1.0),
        ("no numbers", 1.0),
    ],
)
def test_consistency_is_that_of_steps_and_of_the_conclusion(thought, share):
    reward = Consistent()
    assert reward(["q"], [f"{thought}</think>7"], answer=["7"]) == [share]
    assert reward(["q"], [f"{thought}</think>8"], answer=["7"]) == [0.0]


def test_brevity_is_within_the_right_answers_of_a_group_times_their_share():
    texts = ["a</think>2", "aaa</think>2", "aaaaa</think>2", "</think>3"]
    brief = Brief(num_generations=4)
    assert brief(["q"] * 4, texts, answer=["2"] * 4) == [0.75, 0.375, 0.0, 0.0]
    ids = [[0] * 5, [0] * 4, [0] * 3, [0]]
    by_tokens = brief(["q"] * 4, texts, answer=["2"] * 4, completion_ids=ids)
    assert by_tokens == [0.0, 0.375, 0.75, 0.0]


@BUSY
@given(groups)
def test_brevity_without_a_number_takes_the_groups_that_stand_beside_each_other(completions):
    columns = {"prompts": PROMPTS, "completions": completions, "answer": ["2"] * 2 * SIZE}
    assert Brief()(**columns) == Brief(num_generations=SIZE)(**columns)
    with pytest.raises(DataError, match="no whole groups"):
        Brief()(["a", "b", "b", "a"], ["x"] * 4, answer=["2"] * 4)


@pytest.mark.parametrize(
    ("tokens", "share"), [(1, 1.0), (10, 1.0), (15, 0.75), (20, 0.5), (30, 0.0), (40, 0.0)]
)
def test_a_right_answer_is_worth_less_near_the_limit(tokens, share):
    reward = OVERLONG(["q"] * 2, ["</think>2", "</think>3"], ["2"] * 2, [[0] * tokens] * 2)
    assert reward == [share, 0.0]


@pytest.mark.parametrize(
    ("text", "on", "off"),
    [
        ("so</think>2", 1, 0),
        ("<think>so</think>2", 1, 0),
        ("<think></think>2", 0, 0),
        ("so</think>", 0, 0),
        ("so</think>2</think>3", 0, 0),
        ("so<think>so</think>2", 0, 0),
        ("2", 0, 1),
        (" ", 0, 0),
    ],
)
def test_the_form_is_that_of_the_mode_whether_right_or_wrong(text, on, off):
    assert Formed()(["q"], [text]) == [on]
    assert Formed()(["q /no_think"], [text]) == [off]
    assert Formed(thinking="off")([[{"role": "user", "content": "q /think"}]], [text]) == [on]


def test_groups_that_are_split_are_refused():
    brief = Brief(num_generations=2)
    for prompts in (["a", "a", "b"], ["a", "b", "b", "a"]):
        with pytest.raises(DataError, match="a multiple of num_generations"):
            brief(prompts, ["x"] * len(prompts), answer=["2"] * len(prompts))
    with pytest.raises(DataError, match="num_generations=1"):
        Brief(num_generations=1)
    with pytest.raises(DataError, match="thinking='both'"):
        Correct(thinking="both")


def test_rewards_are_pickled_and_have_names_for_the_log():
    for reward in REWARDS:
        assert pickle.loads(pickle.dumps(reward)) == reward
    assert [each.__name__ for each in REWARDS] == ["correct", "consistent", "brief", "overlong"]


def test_math_verify_finds_equal_what_is_written_otherwise():
    pytest.importorskip("math_verify", reason="it is in the extra [posttrain]")
    assert math_equal("$\\frac{1}{2}$", "0.5") == 1
    assert math_equal("$\\frac{1}{3}$", "0.5") == 0
