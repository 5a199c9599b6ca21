"""Seconds per answer: of a search with a scenario for each mode, and answers of any length."""

import html
import re
import statistics

import pytest
import torch

import puzzle
from puzzle.evaluation import Answers, answer_workload
from puzzle.pipeline.loading import load_result
from puzzle.report.answer_seconds import AnswerSeconds, ModeSeconds
from puzzle.report.charts import answers_chart
from puzzle.text.chat import render_prompt
from puzzle.text.switch import add_thinking_switch
from tests.factories.children import child_of
from tests.factories.parents import text
from tests.factories.posttraining import character_tokenizer
from tests.robustness.tiny_search import DATA, write_inputs

MODES = {
    "on": (puzzle.Scenario(batch=2, prompt_tokens=4, generated_tokens=6), 3.0),
    "off": (puzzle.Scenario(batch=2, prompt_tokens=4, generated_tokens=2), 1.0),
}


def search(folder, **arguments):
    return puzzle.search(
        folder / "parent",
        text(count=12),
        effort="fast",
        hardware="roofline:h100-sxm",
        device="cpu",
        precision="float32",
        data=DATA,
        out=folder / "run",
        **arguments,
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    write_inputs(folder)
    return search(folder, scenario=MODES, constraints="seconds_per_answer <= 0.8x")


def answered(tokens, right=None):
    ones = torch.ones(len(tokens))
    return Answers(
        right=ones if right is None else torch.tensor(right),
        tokens=torch.tensor(tokens),
        finished=ones,
        thought=ones,
        consistent=ones,
    )


def evaluation(parent, child):
    both = {"parent": parent, "child": child}
    answers = {
        who: {("task", mode): answered(tokens) for mode, tokens in modes.items()}
        for who, modes in both.items()
    }
    return puzzle.Evaluation(text={}, tasks={}, answers=answers)


# One token of each answer ends it, and is not among those that are counted.
OWN = {"on": [5.0], "off": [1.0]}


def test_the_constraint_is_on_the_device_seconds_of_an_answer(result):
    phases = result.evidence.seconds
    for who, most in (("parent", 1.0), ("child", 0.8)):
        seconds = sum(w * sum(phases[mode][who].values()) for mode, (_, w) in MODES.items())
        own = sum(w * sum(phases[mode]["parent"].values()) for mode, (_, w) in MODES.items())
        assert seconds <= most * own * (1 + 1e-9)
    found = result.answer_seconds(evaluation(OWN, OWN))
    weighted = {
        who: sum(w * sum(phases[mode][who].values()) / 2 for mode, (_, w) in MODES.items()) / 4
        for who in ("parent", "child")
    }
    assert found.parent == pytest.approx(weighted["parent"])
    assert found.child == pytest.approx(weighted["child"])
    assert found.gain == pytest.approx(found.alike)
    assert found.inflation == 1


def test_longer_answers_take_the_gain_and_a_search_again_has_their_length(result, tmp_path):
    longer = {"on": [5.0, 17.0, 400.0], "off": [1.0]}
    found = result.answer_seconds(evaluation(OWN, longer))
    assert found.inflation == pytest.approx((3 * 18 + 2) / (3 * 6 + 2))
    assert found.alike > found.gain
    again = found.again("seconds_per_answer <= 0.8x")
    assert again["scenario"].scenarios["on"].generated_tokens == 18
    (limit,) = again["constraints"]
    assert not limit.relative
    assert limit.value == pytest.approx(0.8 * found.parent)
    with pytest.raises(puzzle.PuzzleError, match="seconds_per_answer"):
        found.again("memory <= 0.8x")
    with pytest.raises(puzzle.PuzzleError, match="no answers of the child"):
        result.answer_seconds(evaluation(OWN, {"on": [1.0]}))
    page = result.report(tmp_path / "page.html", answers=evaluation(OWN, longer)).read_text()
    page = html.unescape(page)
    assert page.count(found.verdict()) == 1
    assert re.search(r"<th>on</th>.*>3<.*>6<.*>18<", page)
    assert "Seconds per answer" not in result.report(tmp_path / "page.html").read_text()
    read = load_result(result.save(tmp_path / "child"))
    assert read.answer_seconds(evaluation(OWN, longer)).to_dict() == found.to_dict()


def test_the_picture_is_accuracy_over_seconds_and_a_budget_moves_along_a_curve(result, tmp_path):
    def measured(tokens, right):
        both = {
            ("task", "on"): answered([tokens] * 4, right),
            ("task", "off"): answered([1.0], [0.0]),
        }
        return puzzle.Evaluation(text={}, tasks={}, answers={"parent": both, "child": both})

    whole = measured(5.0, [1.0, 1.0, 1.0, 0.0])
    budgets = {3: measured(3.0, [1.0, 0.0, 1.0, 0.0]), 1: measured(1.0, [0.0, 0.0, 1.0, 0.0])}
    found = result.answer_seconds(whole, budgets=budgets)
    on = found.modes["on"]
    assert (on.child_accuracy, found.modes["off"].child_accuracy) == (0.75, 0)
    assert on.child_rate == pytest.approx(0.75 / on.child)
    assert on.parent_rate == pytest.approx(on.child_rate * on.child / on.parent)
    chart = answers_chart(found)
    points = {each.label: each.points for each in chart.series}
    assert points["child, thinking on"] == [(on.child, 0.75)]
    (first, *_), *_, last = curve = points["child, budgets of thought"]
    assert [y for _, y in curve] == [0.25, 0.5, 0.75]
    # A third of the tokens, with the one that ends each, is a third of the decoding.
    phases = result.evidence.seconds["on"]["child"]
    decode, prefill = (phases[name] / 2 for name in ("decode_seconds", "prefill_seconds"))
    assert last[0] - first == pytest.approx(decode * 4 / 6)
    assert first == pytest.approx(prefill + decode * 2 / 6)
    assert len(result.plot_answers(whole, budgets=budgets, width="column").axes[0].lines) == 6
    page = result.report(tmp_path / "page.html", answers=found).read_text()
    assert "Accuracy over seconds per answer" in page
    assert ">0.750<" in page


@pytest.mark.parametrize(
    ("child_tokens", "words"),
    [
        (100.0, "takes 0.77 times the parent's seconds: .* the child is 1.30 times as fast"),
        (130.0, "^Nothing is gained: .* is 1.30 times as fast, and its own are 1.30 times as long"),
        (200.0, "a loss: .* but its own are 2.00 times as long, so that one takes 1.54 times"),
    ],
)
def test_a_child_that_thinks_as_much_longer_as_it_is_faster_has_gained_nothing(child_tokens, words):
    mode = ModeSeconds(
        share=1.0,
        parent_tokens=100.0,
        child_tokens=child_tokens,
        parent=1.3,
        child=child_tokens / 100,
        alike=1.0,
        parent_accuracy=1.0,
        child_accuracy=1.0,
    )
    workload = puzzle.Workload.of({"on": MODES["on"]})
    sentence = AnswerSeconds(modes={"on": mode}, workload=workload).verdict()
    assert re.search(words, sentence), sentence


def test_the_workload_has_the_median_lengths_of_the_models_own_answers():
    tokenizer = add_thinking_switch(character_tokenizer())
    sizes = {"vocab_size": len(tokenizer), "eos_token_id": 1, "pad_token_id": 0}
    child, questions = (
        child_of(["gqa3+gated64", "none+gated9", "gqa1+none"], **sizes),
        ["1+1", "2", "33+1"],
    )
    shares = {"on": 0.3, "off": 0.7}
    found = answer_workload(
        child, questions, shares=shares, tokenizer=tokenizer, batch=4, max_tokens=9
    )
    assert found.weights == shares
    task = puzzle.evaluation.AnswerTask(name="x", questions=questions, answers=[""] * 3)
    answers = puzzle.evaluate(
        child, tokenizer=tokenizer, tasks=[task], thinking="both", max_tokens=9
    ).answers["child"]
    for mode, scenario in found.scenarios.items():
        prompts = [render_prompt(each, tokenizer, thinking=mode) for each in questions]
        assert scenario.prompt_tokens == statistics.median(
            len(tokenizer(each, add_special_tokens=False)["input_ids"]) for each in prompts
        )
        assert scenario.generated_tokens == answers["x", mode].tokens.median() + 1
        assert scenario.batch == 4
    for wrong in ({}, {"sometimes": 1.0}, {"on": 0.0}):
        with pytest.raises(puzzle.PuzzleError, match="share above zero"):
            answer_workload(child, questions, shares=wrong, tokenizer=tokenizer)
    with pytest.raises(puzzle.PuzzleError, match="no tokenizer"):
        answer_workload(child, questions, shares=shares)
