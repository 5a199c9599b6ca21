"""Claims about tasks of lm-eval that are answered in both modes of thinking, without a network."""

import json

import pytest
import yaml

import puzzle
from puzzle.errors import DataError
from puzzle.evaluation.answer_writing import AnswerSettings, write_answers
from puzzle.text.chat import render_prompt
from puzzle.text.switch import add_thinking_switch
from tests.factories.children import child_of
from tests.factories.posttraining import character_tokenizer

pytest.importorskip("lm_eval", reason="it is in the extra [eval]")

TOKENIZER = add_thinking_switch(character_tokenizer())
QUESTIONS = ["8", "7", "what is 20 and 3?"]
HOW = {"budget": 6, "max_tokens": 20, "batch": 2}


@pytest.fixture(scope="module")
def child():
    labels = ["gqa3+gated64", "none+gated9", "gqa1+none"]
    return child_of(labels, vocab_size=len(TOKENIZER), eos_token_id=1, pad_token_id=0)


def written(child, mode, tokenizer=TOKENIZER, **prompts):
    """What the child writes without a text that stops answers: thought and answer of each."""
    asked = [render_prompt(q, tokenizer, thinking=mode, **prompts) for q in QUESTIONS]
    found = write_answers(child, tokenizer, asked, AnswerSettings(**HOW), label="by hand")
    assert all(each.answer is not None for each in found)
    return [(each.thought, each.answer) for each in found]


def task_file(place, answers, *, stop="\x00", **changes):
    """The YAML of a task with these questions, as lm-eval has thousands of."""
    rows = zip(QUESTIONS, answers, strict=True)
    data = place / "rows.jsonl"
    data.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    config = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(place)},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [stop], "max_gen_toks": 1, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    file = place / "sums.yaml"
    file.write_text(yaml.safe_dump({**config, **changes}))
    return file


def test_each_mode_has_a_row_and_the_scorer_sees_the_answer_up_to_a_stop(child, tmp_path):
    modes = {mode: written(child, mode) for mode in ("on", "off")}
    stop = "c"
    cut = {mode: [a.partition(stop)[0] for _, a in own] for mode, own in modes.items()}
    # It would end a thought, and ends an answer, in the mode with thoughts.
    assert any(stop in thought for thought, _ in modes["on"])
    assert cut["on"][0] not in ("", modes["on"][0][1])
    right = [cut["on"][0], cut["on"][1], cut["off"][2]]
    result = puzzle.evaluate(
        child,
        parent=child,
        tokenizer=TOKENIZER,
        tasks=[task_file(tmp_path, right, stop=stop)],
        thinking="both",
        **HOW,
    )
    found = result.answers["child"]
    assert list(found) == [("sums", "on"), ("sums", "off")]
    for mode, own in modes.items():
        answers = found["sums", mode]
        expected = [float(each == wanted) for each, wanted in zip(cut[mode], right, strict=True)]
        assert answers.right.tolist() == expected
        assert answers.thought.tolist() == [float(bool(thought)) for thought, _ in own]
        # None of them comes to an end of its own.
        stopped = [float(stop in answer) for _, answer in own]
        assert answers.finished.tolist() == stopped
        lengths = answers.tokens.tolist()
        assert [float(n < HOW["max_tokens"]) for n in lengths] == stopped
    assert found["sums", "on"].right.tolist() == [1, 1, 0]
    assert found["sums", "on"].thought.sum() == 3
    assert found["sums", "off"].thought.sum() == 0
    for part in ("sums, thinking on", "sums, thinking off", "tokens per answer, p95"):
        assert part in result.table()
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))["answers"]["parent"]
    assert [each["thinking"] for each in values] == ["on", "off"]


def test_a_thought_that_does_not_end_scores_nothing_whatever_is_asked(child, tmp_path):
    how = {"tokenizer": TOKENIZER, "thinking": "on", "max_tokens": 5}
    # An empty answer is what the scorer is given, and what this task wants.
    found = puzzle.evaluate(child, tasks=[task_file(tmp_path, ["", "", ""])], **how)
    answers = found.answers["child"]["sums", "on"]
    assert answers.finished.tolist() == answers.right.tolist() == [0, 0, 0]


def test_a_switch_that_is_a_system_prompt_is_added_to_what_the_task_says(child, tmp_path):
    plain = character_tokenizer()
    system = {"on": "detailed thinking on", "off": "detailed thinking off"}
    asked = [
        f"<|system|>{system['on']}\n\nBe brief.<eos><|user|>{q}<eos><|assistant|>"
        for q in QUESTIONS
    ]
    by_hand = write_answers(child, plain, asked, AnswerSettings(**HOW), label="by hand")
    file = task_file(tmp_path, [each.answer for each in by_hand], description="Be brief.")
    found = puzzle.evaluate(
        child, tokenizer=plain, tasks=[file], thinking="both", system_prompts=system, **HOW
    ).answers["child"]
    assert found["sums", "on"].tokens.tolist() == [each.tokens for each in by_hand]
    assert found["sums", "on"].right.tolist() == [1, 1, 1]
    assert found["sums", "off"].accuracy.value < 1


def test_filters_have_rows_of_their_own_and_several_answers_count_by_their_mean(child, tmp_path):
    first = {"filter": [{"function": "take_first"}], "name": "whole"}
    letter = {"function": "regex", "regex_pattern": "^(.)", "group_select": 0}
    start = {"filter": [letter, {"function": "take_first"}], "name": "first"}
    answers = [answer for _, answer in written(child, "off")]
    file = task_file(tmp_path, [each[0] for each in answers], filter_list=[first, start])
    how = {"tokenizer": TOKENIZER, "tasks": [file], "thinking": "off", **HOW}
    found = puzzle.evaluate(child, **how).answers["child"]
    assert list(found) == [("sums/whole", "off"), ("sums/first", "off")]
    assert found["sums/first", "off"].right.tolist() == [1, 1, 1]
    assert found["sums/whole", "off"].right.tolist() == [float(len(a) == 1) for a in answers]
    warm = puzzle.evaluate(child, samples=2, temperature=2.0, **how).answers["child"]
    tokens = warm["sums/first", "off"].tokens.reshape(3, 2)
    assert any(len(set(own)) > 1 for own in tokens.tolist())


@pytest.mark.parametrize(("own", "shots"), [(None, 1), (1, None), (0, 1), (None, None)])
def test_solved_examples_are_earlier_turns_where_the_task_has_some(child, own, shots, tmp_path):
    changes = {} if own is None else {"num_fewshot": own}
    one = {"fewshot_split": "test", "fewshot_config": {"sampler": "first_n"}, **changes}
    how = {"tokenizer": TOKENIZER, "thinking": "off", "shots": shots, **HOW}
    found = puzzle.evaluate(child, tasks=[task_file(tmp_path, ["1", "2", "3"], **one)], **how)
    solved = [("user", QUESTIONS[0]), ("assistant", "1")] if own != 0 and (own or shots) else []
    turns = [{"role": role, "content": text} for role, text in [*solved, ("user", QUESTIONS[2])]]
    prompt = render_prompt(turns, TOKENIZER, thinking="off")
    settings = AnswerSettings(**HOW)
    (by_hand,) = write_answers(child, TOKENIZER, [prompt], settings, label="by hand")
    right = puzzle.evaluate(
        child, tasks=[task_file(tmp_path, ["1", "2", by_hand.answer], **one)], **how
    )
    assert found.answers["child"]["sums", "off"].right.tolist()[2] == 0
    assert right.answers["child"]["sums", "off"].right.tolist()[2] == 1


@pytest.mark.parametrize(
    ("changes", "tokenizer", "match"),
    [
        ({"gen_prefix": "The answer is"}, TOKENIZER, "begins the answer with 'The answer is'"),
        (
            {"output_type": "multiple_choice", "doc_to_choice": ["1", "2", "3"]},
            TOKENIZER,
            "no task whose answers are generated",
        ),
        ({"dataset_path": "no such data"}, TOKENIZER, r"cannot load task '.*sums\.yaml'"),
        ({}, character_tokenizer(), "add_thinking_switch"),
    ],
)
def test_what_has_no_modes_is_refused(child, changes, tokenizer, match, tmp_path):
    file = task_file(tmp_path, ["0", "1", "2"], **changes)
    with pytest.raises(DataError, match=match):
        puzzle.evaluate(child, tasks=[file], tokenizer=tokenizer, thinking="both", **HOW)
    with pytest.raises(DataError, match=r"absent\.yaml cannot be read"):
        puzzle.evaluate(child, tasks=[tmp_path / "absent.yaml"], thinking="both", **HOW)
