"""Tasks through lm-eval without a network, against likelihoods computed by hand."""

import json
import math
from types import SimpleNamespace

import datasets
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import puzzle
from puzzle.errors import DataError
from puzzle.evaluation.questions import ChoiceTask, Question, mmlu_dev, read_task
from puzzle.evaluation.tasks import _templated

WORDS = ["Question", ":", "Answer", *[f"w{i}" for i in range(40)]]


def tokenizer():
    vocabulary = {word: i for i, word in enumerate(["<eos>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", unk_token="<unk>")


def model(seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=24,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=len(WORDS) + 2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    found = LlamaForCausalLM(config).eval()
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return found


@pytest.fixture(scope="module")
def task():
    pick = torch.Generator().manual_seed(0)
    questions = []
    for _ in range(20):
        words = [f"w{i}" for i in torch.randperm(40, generator=pick)[:8].tolist()]
        choices = (words[4], " ".join(words[5:7]), words[7])
        answer = int(torch.randint(3, (1,), generator=pick))
        questions.append(Question(" ".join(words[:4]), choices, answer))
    return ChoiceTask("words", tuple(questions))


@torch.no_grad()
def right_answers(one, task):
    """Ranks the choices by the log-likelihood of their tokens, one forward pass each."""
    encode = tokenizer()
    found = []
    for question in task.questions:
        scores = []
        prompt = encode(f"Question: {question.text}\nAnswer:")["input_ids"]
        for choice in question.choices:
            tokens = torch.tensor([prompt + encode(choice)["input_ids"]])
            log = torch.log_softmax(one(tokens).logits[0], -1)
            ahead = range(len(prompt) - 1, tokens.shape[1] - 1)
            scores.append(sum(log[i, tokens[0, i + 1]].item() for i in ahead))
        found.append(float(scores.index(max(scores)) == question.answer))
    return torch.tensor(found, dtype=torch.float64)


@pytest.fixture(scope="module")
def result(task, tmp_path_factory):
    datasets.disable_progress_bars()
    rows = torch.randint(2, 40, (4, 10), generator=torch.Generator().manual_seed(1))
    return puzzle.evaluate(
        model(1), parent=model(0), data=rows, tasks=[task], tokenizer=tokenizer(), batch=4
    )


def test_accuracy_is_that_of_likelihoods_computed_by_hand(result, task):
    for name, seed in (("parent", 0), ("child", 1)):
        expected = right_answers(model(seed), task)
        score = result.tasks[name]["words"]
        assert torch.equal(score.samples, expected)
        error = expected.std().item() / math.sqrt(len(expected))
        assert (score.score.value, score.score.error) == (expected.mean().item(), error)
        assert score.chance == pytest.approx(1 / 3)


def test_percent_kept_is_child_over_parent(result):
    parent, child = (result.tasks[name]["words"].score.value for name in ("parent", "child"))
    assert result.kept()["words"].value == pytest.approx(100 * child / parent)
    assert "mean" not in result.kept()


def test_parent_and_child_stand_side_by_side_and_in_json(result):
    lines = result.table().splitlines()
    assert lines[0].split() == ["parent", "child", "kept"]
    assert lines[1].startswith("perplexity")
    assert lines[-1].startswith("words (acc, chance 0.33)")
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["tasks"]["child"]["words"]


def test_files_of_questions_are_read(tmp_path):
    big = tmp_path / "dates" / "task.json"
    big.parent.mkdir()
    examples = [
        {"input": "a?", "target_scores": {"x": 0, "y": 1}},
        {"input": "two right answers?", "target_scores": {"x": 1, "y": 1}},
        {"input": "no choices?", "target": "z"},
    ]
    big.write_text(json.dumps({"examples": examples}))
    assert read_task(big) == ChoiceTask("dates", (Question("a?", ("x", "y"), 1),))
    lines = tmp_path / "mine.jsonl"
    lines.write_text('{"question": "b?", "choices": ["x", "y"], "answer": 0}\n')
    assert read_task(lines) == ChoiceTask("mine", (Question("b?", ("x", "y"), 0),))


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("task.json", "not json", "is not a file of questions.* not JSON"),
        ("task.json", "[1]", "a JSON list instead of an object"),
        ("task.json", "[" * 100_000, "nested too deeply"),
        ("task.json", '{"examples": []}', "has no questions"),
        ("task.json", '{"examples": [3]}', "is not a file of questions"),
        ("task.json", '{"examples": [{"target_scores": {"x": 1, "y": 0}}]}', "'input' is missing"),
        ("task.json", '{"examples": [{"input": "a", "target_scores": {"x": 1, "y": []}}]}', "'>'"),
        ("rows.jsonl", "", "has no questions"),
        ("rows.jsonl", "\n3", "line 2 of .*rows.jsonl is not a file of questions"),
        ("rows.jsonl", '{"question": "a"}', "'choices' is missing"),
        ("rows.jsonl", '{"question": "a", "choices": "yes", "answer": 0}', "a list"),
        ("rows.jsonl", '{"question": "a", "choices": ["b", "c"], "answer": true}', "a choice"),
        ("rows.jsonl", '{"question": "a", "choices": ["b", "c"], "answer": 2}', "answer number 2"),
        ("rows.jsonl", '{"question": "a", "choices": ["b", "c"], "answer": null}', "a choice"),
    ],
)
def test_a_bad_file_is_named(name, text, match, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=match):
        read_task(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_task(tmp_path / f"absent-{name}")


def test_questions_are_rendered_as_lm_eval_does_itself():
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    template += "{% if add_generation_prompt %}<assistant>{% endif %}"
    cutter = tokenizer()
    cutter.chat_template = template
    chat = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    for prompt in (True, False):
        expected = HFLM.apply_chat_template(
            SimpleNamespace(tokenizer=cutter, chat_template_args={}), chat, prompt
        )
        assert _templated(cutter, chat, prompt) == expected


def test_the_mmlu_development_questions_are_real_ones():
    task = mmlu_dev()
    assert len(task.questions) > 250
    assert task.chance == pytest.approx(0.25)
    ring = next(q for q in task.questions if "characteristic of the ring 2Z" in q.text)
    assert (ring.choices, ring.answer) == (("0", "3", "12", "30"), 0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "nothing to measure"),
        ({"tasks": [3]}, "task 3; allowed"),
        ({"tasks": ["mmlu-dev"]}, "tokenizer="),
        ({"tasks": ["mmlu-dev", "mmlu-dev"]}, "same name"),
        ({"tasks": ["mmlu-dev"], "limit": 0}, "limit=0"),
        ({"data": torch.full((2, 5), 99)}, "token 99"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_computed(options, match):
    with pytest.raises(DataError, match=match):
        puzzle.evaluate(model(0), **options)


@pytest.mark.slow
def test_a_task_that_lm_eval_does_not_know_is_named_before_a_model_is_opened(tmp_path):
    with pytest.raises(DataError, match=r"no task 'arc_esy'; did you mean 'arc_easy'"):
        puzzle.evaluate(tmp_path / "no model", tasks=["arc_esy"])
    with pytest.raises(DataError, match=r"no task 'no such task'\. Its list: lm_eval ls tasks"):
        puzzle.evaluate(tmp_path / "no model", tasks=["no such task"])
