"""Claims about answers in free text, measured in both modes of thinking."""

import json
import math
import statistics

import pytest
import torch

import puzzle
from puzzle.errors import DataError
from puzzle.evaluation.answer_lengths import answer_workload
from puzzle.evaluation.answer_writing import AnswerSettings
from puzzle.evaluation.answers import Answers, AnswerTask, answer_questions
from puzzle.evaluation.consistency import consistency
from puzzle.models.thinking_budget import ThinkingBudget
from puzzle.text.chat import render_prompt
from puzzle.text.switch import add_thinking_switch
from puzzle.text.thoughts import split_thought
from tests.factories.children import child_of
from tests.factories.posttraining import character_tokenizer

TOKENIZER = add_thinking_switch(character_tokenizer())
LABELS = ["gqa3+gated64", "none+gated9", "gqa1+none"]
QUESTIONS = ["1+1", "what is 20 and 3?", "7"]


@pytest.fixture(scope="module")
def child():
    return child_of(LABELS, vocab_size=len(TOKENIZER), eos_token_id=1, pad_token_id=0)


def one_by_one(model, question, mode, budget, most):
    """The answer to one question by itself, read from its text."""
    prompt = render_prompt(question, TOKENIZER, thinking=mode)
    ids = torch.tensor([TOKENIZER(prompt, add_special_tokens=False)["input_ids"]])
    limits = [] if budget is None else [ThinkingBudget(TOKENIZER, budget)]
    how = {"max_new_tokens": most, "do_sample": False, "logits_processor": limits}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **how)[0, ids.shape[1] :]
    kept = [token for token in out.tolist() if token not in (0, 1)]
    return ("<think>" if mode == "on" else "") + TOKENIZER.decode(kept), len(kept), 1 in out


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("budget", [None, 4])
def test_answers_in_batches_are_those_to_each_question_alone(child, mode, budget):
    alone = [one_by_one(child, question, mode, budget, 30) for question in QUESTIONS]
    parts = [split_thought(text) for text, _, _ in alone]
    right = [answer or "" for _, answer in parts]
    right[1] = "something else"
    task = AnswerTask(name="x", questions=QUESTIONS, answers=right)
    settings = AnswerSettings(budget=budget, max_tokens=30, batch=2)
    answers = answer_questions(child, TOKENIZER, task, mode, settings)
    assert answers.tokens.tolist() == [count for _, count, _ in alone]
    assert answers.thought.tolist() == [float(bool(thought)) for thought, _ in parts]
    ended = [
        float(end and answer is not None)
        for (_, answer), (_, _, end) in zip(parts, alone, strict=True)
    ]
    assert answers.finished.tolist() == ended
    follows = [consistency(*part) if all(part) else math.nan for part in parts]
    assert answers.consistent.tolist() == pytest.approx(follows, nan_ok=True)
    expected = [answer is not None for _, answer in parts]
    assert answers.right.tolist() == [float(expected[0]), 0.0, float(expected[2])]
    # With a budget a thought ends, unless the whole text ends in it.
    assert all(
        done or budget is None or end for done, (_, _, end) in zip(expected, alone, strict=True)
    )


def test_several_answers_are_drawn_and_those_of_a_cold_draw_are_the_greedy_one(child):
    task = AnswerTask(name="x", questions=QUESTIONS, answers=["1", "2", "3"])

    def tokens(samples, temperature):
        settings = AnswerSettings(max_tokens=30, samples=samples, temperature=temperature)
        return answer_questions(child, TOKENIZER, task, "on", settings).tokens.reshape(-1, samples)

    before = torch.get_rng_state()
    cold, greedy = tokens(3, 1e-6), tokens(1, 0.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(cold, greedy.expand(-1, 3))
    warm = tokens(3, 2.0)
    assert torch.equal(warm, tokens(3, 2.0))
    assert any(len(set(own)) > 1 for own in warm.tolist())


def test_system_prompts_switch_a_model_whose_template_has_no_switch(child):
    plain, most = character_tokenizer(), 12
    system = {"on": "detailed thinking on", "off": "detailed thinking off"}
    task = AnswerTask(name="x", questions=QUESTIONS, answers=[""] * len(QUESTIONS))
    how = {"tokenizer": plain, "max_tokens": most, "system_prompts": system}
    found = puzzle.evaluate(child, tasks=[task], thinking="both", batch=2, **how).answers["child"]
    workload = answer_workload(child, QUESTIONS, shares={"on": 1.0, "off": 1.0}, **how)
    for mode, text in system.items():
        lengths, written = [], []
        for question in QUESTIONS:
            prompt = f"<|system|>{text}<eos><|user|>{question}<eos><|assistant|>"
            ids = torch.tensor([plain(prompt, add_special_tokens=False)["input_ids"]])
            out = child.generate(ids, max_new_tokens=most, do_sample=False)[0, ids.shape[1] :]
            lengths.append(ids.shape[1])
            written.append(sum(token not in (0, 1) for token in out.tolist()))
        assert found["x", mode].tokens.tolist() == written
        scenario = workload.scenarios[mode]
        assert scenario.prompt_tokens == statistics.median(lengths)
        assert scenario.generated_tokens == statistics.median(written) + 1


def test_a_table_has_both_modes_of_parent_and_child(child, tmp_path):
    task = tmp_path / "sums.jsonl"
    rows = zip(QUESTIONS, ["2", "23", "7"], strict=True)
    task.write_text("\n".join(json.dumps({"question": q, "answer": a}) for q, a in rows))
    result = puzzle.evaluate(
        child,
        parent=child,
        tokenizer=TOKENIZER,
        tasks=[task],
        thinking="both",
        budget=4,
        max_tokens=16,
    )
    assert list(result.answers["child"]) == [("sums", "on"), ("sums", "off")]
    text = result.table()
    for part in ("sums, thinking on", "sums, thinking off", "tokens per answer, p95", "finished"):
        assert part in text
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))["answers"]["parent"]
    assert [each["thinking"] for each in values] == ["on", "off"]
    assert values[0]["questions"] == 3


def answers(right, tokens, samples=1):
    values = torch.tensor([right, tokens], dtype=torch.float64)
    one = torch.ones(len(right))
    return Answers(
        right=values[0],
        tokens=values[1],
        finished=one,
        thought=one,
        consistent=one * math.nan,
        samples=samples,
    )


def test_inflation_counts_questions_that_both_answer_right():
    parent = answers([1, 1, 0, 1], [10, 20, 999, 30])
    child = answers([1, 1, 1, 0], [15, 30, 1, 999])
    assert child.inflation(parent).value == pytest.approx(1.5)
    assert child.inflation(parent).error == pytest.approx(0)
    assert math.isnan(answers([0], [1]).inflation(answers([1], [1])).value)
    assert parent.accuracy.value == 0.75
    assert parent.quantile(0.5) == 25
    # Of two answers to each question, the right ones count.
    twice = answers([1, 0, 0, 0, 1, 1], [40, 999, 999, 1, 10, 30], samples=2)
    assert twice.rates.tolist() == [0.5, 0, 1]
    assert twice.accuracy.value == 0.5
    assert twice.inflation(answers([1, 1, 1], [10, 1, 10])).value == pytest.approx(60 / 20)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"thinking": "maybe"}, "'both', 'on', 'off'"),
        ({"thinking": None}, "without a mode"),
        ({"tasks": [], "data": "some text " * 40}, "no task whose answers are generated"),
        ({"budget": -1}, "budget=-1"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"system_prompts": {"on": "think"}}, "each of 'on' and 'off'"),
        ({"system_prompts": {"on": "think", "off": ""}}, "each of 'on' and 'off'"),
        ({"thinking": None, "system_prompts": {"on": "a", "off": "b"}}, "give thinking="),
        ({"samples": 2}, "temperature above 0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"tokenizer": character_tokenizer()}, "add_thinking_switch"),
    ],
)
def test_what_does_not_go_together_is_refused(child, changes, match):
    task = AnswerTask(name="sums", questions=["1+1"], answers=["2"])
    given = {"tasks": [task], "thinking": "both", "tokenizer": TOKENIZER, **changes}
    with pytest.raises(DataError, match=match):
        puzzle.evaluate(child, **given)
    with pytest.raises(DataError, match="1 questions and 2 answers"):
        AnswerTask(name="sums", questions=["1+1"], answers=["2", "3"])


def test_a_file_that_is_no_questions_and_answers_is_named(child, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "1+1"}))
    with pytest.raises(DataError, match=r"rows\.jsonl.*answer"):
        puzzle.evaluate(child, tokenizer=TOKENIZER, tasks=[file], thinking="on")
