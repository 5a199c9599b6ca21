"""Claims about rows of preferences, the form of answers, refusals and averages of models."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from puzzle.errors import DataError
from puzzle.posttraining.answer_samplers import Sampled
from puzzle.posttraining.averaging import average_models
from puzzle.posttraining.mode_format import format_shares, looks_like_refusal, refusal_rates
from puzzle.posttraining.preference_rows import judged_rows, preference_rows
from puzzle.text.switch import add_thinking_switch
from tests.factories.posttraining import LAYOUTS, character_tokenizer, random_model, save_pair

PLAIN = character_tokenizer()
TOKENIZER = add_thinking_switch(PLAIN)
BOTH = {"prompt": "q", "chosen": "<think>so</think>2", "rejected": "<think>no</think>3"}


def test_a_preference_is_one_of_each_mode_that_it_fits():
    rows, counts = preference_rows(
        [
            BOTH,
            {**BOTH, "reasoning": "on"},
            {"prompt": "q", "chosen": "2", "rejected": "3"},
            {**BOTH, "rejected": "<think>no</think>2"},  # differs in its thought alone
        ],
        TOKENIZER,
    )
    assert counts == {
        "rows, thinking on": 3,
        "rows, thinking off": 2,
        "rows that are no example of a mode": 1,
        "rows whose answers are the same without thoughts": 1,
    }
    for row in rows:
        on = row["chat_template_kwargs"]["enable_thinking"]
        for name in ("chosen", "rejected"):
            assert bool(row[name][0].get("reasoning_content")) == on
            assert "think" not in row[name][0]["content"]
    turns = [{"role": "user", "content": "q"}]
    whole = {
        name: [*turns, {"role": "assistant", "content": BOTH[name]}]
        for name in ("chosen", "rejected")
    }
    assert preference_rows([whole], TOKENIZER) == preference_rows([BOTH], TOKENIZER)
    [row], counts = preference_rows([BOTH], PLAIN)
    assert row["chosen"][0]["content"] == BOTH["chosen"]
    assert counts == {"rows": 1}


def test_judged_answers_keep_their_label_and_bad_rows_are_named():
    rows, _ = judged_rows([{"prompt": "q", "completion": "2", "label": True}], TOKENIZER)
    assert [(row["completion"][0]["content"], row["label"]) for row in rows] == [("2", True)]
    for read, row in (
        (judged_rows, {"prompt": "q", "completion": "2", "label": 1}),
        (judged_rows, {"prompt": "q"}),
        (preference_rows, {"prompt": "q", "chosen": "2"}),
        (preference_rows, {"chosen": whole("a"), "rejected": whole("b")}),
    ):
        with pytest.raises(DataError, match=r"row 0 \(from 0\)"):
            read([row], TOKENIZER)


def whole(question):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "2"}]


class Answerer:
    """Answers as its prompts say."""

    identity = "answerer"

    def sample(self, prompts, mode, settings, *, seed):
        texts = [turns[-1]["content"] for turns in prompts]
        thoughts = {"formed": {"on": "so", "off": ""}, "leaks": {"on": "so", "off": "so"}}
        return [
            [
                Sampled(
                    thought=thoughts.get(text, {}).get(mode, ""),
                    answer=None if text == "endless" else text,
                )
            ]
            for text in texts
        ]


def test_form_is_counted_in_each_mode():
    shares = format_shares(Answerer(), ["formed", "leaks", "plain", "endless"], batch=3)
    assert shares == {"on": 0.5, "off": 0.5}


def test_refusals_are_counted_where_they_are_right_and_where_not():
    no = ["I'm sorry, but no.", "I cannot help.", "I can\u2019t do that.", "As an AI, I decline."]
    yes = ["Sure.", "It is 4.", "You can do it.", "x" * 200 + "I cannot"]
    assert all(map(looks_like_refusal, no))
    assert not any(map(looks_like_refusal, yes))
    rates = refusal_rates(Answerer(), [*no[:3], "Sure."], [*yes, no[0]], thinking="off")
    assert rates == {"off": {"refused": 0.75, "over-refused": 0.2}}


@pytest.mark.slow
def test_an_average_is_the_weighted_mean_of_each_tensor(tmp_path):
    save_pair(tmp_path, "llama", LAYOUTS["mixed"])
    first = AutoModelForCausalLM.from_pretrained(tmp_path / "child")
    second = random_model(first.config)
    for parameter in second.parameters():
        parameter.data = torch.randn_like(parameter)
    second.save_pretrained(tmp_path / "second")
    mean = average_models([tmp_path / "child", tmp_path / "second"], tmp_path / "m", weights=[1, 3])
    third = second.state_dict()
    for name, tensor in AutoModelForCausalLM.from_pretrained(mean).state_dict().items():
        expected = first.state_dict()[name] * 0.25 + third[name] * 0.75
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)
    assert (mean / "tokenizer_config.json").is_file()
    same = average_models([first, tmp_path / "child"], tmp_path / "same")
    for name, tensor in AutoModelForCausalLM.from_pretrained(same).state_dict().items():
        assert torch.equal(tensor, first.state_dict()[name])
    save_pair(tmp_path / "other", "llama", LAYOUTS["removed"])
    with pytest.raises(DataError, match="models of one layout"):
        average_models([first, tmp_path / "other" / "child"], tmp_path / "no")
    with pytest.raises(DataError, match="two models or more"):
        average_models([first], tmp_path / "no")
