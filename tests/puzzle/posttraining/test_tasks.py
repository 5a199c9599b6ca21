"""Claims about tasks: which a model can learn from, and what their scorers take for right."""

import json

import pytest

from puzzle.errors import DataError
from puzzle.posttraining.answer_samplers import Sampled
from puzzle.posttraining.conversation_rows import problems_of
from puzzle.posttraining.mode_prompts import mode_prompts
from puzzle.posttraining.reasoning_tasks import gym_equal, gym_tasks
from puzzle.posttraining.rewards import Correct, Formed
from puzzle.posttraining.solve_rate import curriculum, solve_rates
from puzzle.posttraining.stage_settings import SampleSettings
from puzzle.text.chat import render_prompt
from puzzle.text.switch import add_thinking_switch
from tests.factories.posttraining import TEMPLATE, character_tokenizer

TASKS = [{"question": f"{n}+1=", "answer": str(n + 1)} for n in range(5)]


class Learner:
    """Gives n right answers of 4 to the task n+1, and one that has no end."""

    identity = "learner"

    def sample(self, prompts, mode, settings, *, seed):
        numbers = [int(turns[-1]["content"][0]) for turns in prompts]
        return [
            [
                Sampled(thought="", answer=str(n + 1) if place < n else (None if place else "?"))
                for place in range(settings.samples)
            ]
            for n in numbers
        ]


@pytest.mark.parametrize("thinking", ["on", "both"])
def test_tasks_that_are_solved_sometimes_come_easy_ones_first(thinking):
    settings = SampleSettings(samples=4, batch=2)
    rates = solve_rates(Learner(), TASKS, thinking=thinking, settings=settings)
    assert rates == [0, 0.25, 0.5, 0.75, 1]
    kept = problems_of(curriculum(TASKS, rates))
    assert [each.answer for each in kept] == ["3", "2"]
    assert len(curriculum(TASKS, rates, most=1.0)) == 3
    for wrong, message in ((rates[1:], "4 rates for 5"), ([0, 1, 0, 1, 1], "none of the 5")):
        with pytest.raises(DataError, match=message):
            curriculum(TASKS, wrong)


SYSTEM = "{% if '/no_think' in messages[0].content %}{% set off = true %}{% endif %}"
SYSTEM += TEMPLATE + "{% if add_generation_prompt and off %}<think></think>{% endif %}"
ARGUMENT = TEMPLATE + "{% if add_generation_prompt and enable_thinking is false %}off{% endif %}"


def test_one_run_has_both_modes_where_messages_can_switch():
    problems = problems_of(TASKS)
    for tokenizer in (
        add_thinking_switch(character_tokenizer()),
        character_tokenizer(SYSTEM),
    ):
        prompts, numbers, arguments = mode_prompts(problems, tokenizer, "both")
        assert (len(prompts), arguments) == (10, {})
        assert numbers == sorted([*range(5), *range(5)])
        for prompt, number, mode in zip(prompts, numbers, ["on", "off"] * 5, strict=True):
            shown = tokenizer.apply_chat_template(
                prompt, tokenize=False, add_generation_prompt=True
            )
            expected = render_prompt(problems[number].prompt, tokenizer, thinking=mode)
            assert shown.replace("<|system|>/think<eos>", "") == expected.replace(
                "<|system|>/think<eos>", ""
            )
    for thinking, arguments in (("on", True), ("off", False)):
        prompts, _, given = mode_prompts(problems, character_tokenizer(ARGUMENT), thinking)
        assert prompts == [each.prompt for each in problems]
        assert given == {"enable_thinking": arguments}
    with pytest.raises(DataError, match="take one mode for a whole run"):
        mode_prompts(problems, character_tokenizer(ARGUMENT), "both")


@pytest.mark.parametrize("own", [[], [{"role": "system", "content": "Be kind."}]])
def test_a_system_prompt_switches_a_run_of_any_template_and_its_rewards(own):
    tasks = [{"prompt": [*own, {"role": "user", "content": "1+1="}], "answer": "2"}]
    how = {"system_prompts": {"on": "think", "off": "think not"}}
    tokenizer, problems = character_tokenizer(), problems_of(tasks)
    prompts, numbers, arguments = mode_prompts(problems, tokenizer, "both", **how)
    assert (numbers, arguments) == ([0, 0], {})
    for prompt, mode in zip(prompts, ("on", "off"), strict=True):
        shown = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        assert shown == render_prompt(problems[0].prompt, tokenizer, thinking=mode, **how)
    answers = ["<think>1+1=2</think>2", "2"]
    assert Correct(**how)(prompts, ["2", "2"], answer=["2", "2"]) == [0, 1]
    assert Formed(**how)(prompts, answers) == [1, 1]
    assert Formed(**how)(prompts[::-1], answers) == [0, 0]


def test_tasks_of_reasoning_gym_take_their_own_answer_alone_for_right():
    pytest.importorskip("reasoning_gym", reason="it is in the extra [posttrain]")
    settings = {"chain_sum": {"max_terms": 3}, "letter_counting": {}, "basic_arithmetic": {}}
    rows = gym_tasks(settings, size=3, seed=1)
    assert len(rows) == 9
    for row in rows:
        own = json.loads(row["answer"])["entry"]["answer"]
        assert gym_equal(own, row["answer"]) == 1
        assert gym_equal(f"The answer is {own}", row["answer"]) < 1
        assert gym_equal("", row["answer"]) < 1
    assert rows == gym_tasks(settings, size=3, seed=1)
    # Of reasoning-gym's own seeds, neighbours share all rows but one.
    asked = [
        {row["question"] for row in gym_tasks("basic_arithmetic", size=9, seed=seed)}
        for seed in range(3)
    ]
    assert len(set.union(*asked)) == 27
    with pytest.raises(DataError, match="refuses 'chain_sums'"):
        gym_tasks("chain_sums", size=1)
