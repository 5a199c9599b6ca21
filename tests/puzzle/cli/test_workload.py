"""Claims about `puzzle workload`, and searches on several texts and for several scenarios."""

import json
from pathlib import Path

import pytest

import puzzle
from puzzle.cli import main
from puzzle.cli.config_file import write_config
from puzzle.evaluation import answer_workload
from puzzle.limits.scenario import Workload
from puzzle.posttraining import gym_equal, gym_tasks
from puzzle.text import TextMix
from puzzle.text.switch import add_thinking_switch
from tests.factories.parents import text
from tests.factories.posttraining import LAYOUTS, character_tokenizer, save_pair
from tests.puzzle.cli.test_program import said

QUESTIONS = ["1+1", "2", "33+1"]
SIZES = {"window": 8, "fit_tokens": 96, "score_tokens": 32, "validation_tokens": 32}
PLACE = {"hardware": "roofline:h100-sxm", "device": "cpu"}
LIMIT = "seconds_per_answer <= 0.9x"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_pair(tmp_path, "llama", LAYOUTS["mixed"])
    add_thinking_switch(character_tokenizer()).save_pretrained("parent")
    lines = [json.dumps({"question": each}) for each in QUESTIONS]
    Path("asked.jsonl").write_text("\n".join(lines))
    for seed, name in enumerate(("first", "second")):
        Path(f"{name}.txt").write_text("\n\n".join(text(seed=seed, count=40)))
    return tmp_path


@pytest.mark.slow
def test_a_search_on_two_texts_for_two_modes_is_the_librarys(place, capsys):
    shares = {"on": 0.25, "off": 0.75}
    written = [word for n, s in shares.items() for word in ("--share", f"{n}={s}")]
    lengths = ("--questions", "asked.jsonl", "--batch", "2", "--max-tokens", "9")
    found = said(capsys, "workload", "parent", *lengths, *written)
    workload = answer_workload("parent", QUESTIONS, shares=shares, batch=2, max_tokens=9)
    assert Workload.from_dict(found) == workload
    assert json.loads(Path("workload.json").read_text()) == found

    options = {
        "text": ["on=first.txt", "off=second.txt"],
        "share": written[1::2],
        "workload": "workload.json",
        "constraint": LIMIT,
        "effort": "fast",
        "out": "run",
        **PLACE,
        **{name.replace("_", "-"): size for name, size in SIZES.items()},
    }
    write_config(Path("search.toml"), options)
    chosen = said(capsys, "search", "parent", "--config", "search.toml", "--dtype", "float32")
    evidence = puzzle.load_result("run").evidence
    assert evidence.workload.weights == shares
    expected = puzzle.search(
        "parent",
        TextMix(texts={"on": Path("first.txt"), "off": Path("second.txt")}, shares=shares),
        constraints=LIMIT,
        scenario=workload,
        **PLACE,
        precision="float32",
        effort="fast",
        data=puzzle.DataConfig(**SIZES),
        out="run",
    )
    assert chosen["layout"] == expected.layout.to_dict()
    assert evidence.by_text == expected.evidence.by_text


def test_system_prompts_of_the_command_line_are_the_librarys(place, capsys):
    system = {"on": "detailed thinking on", "off": "detailed thinking off"}
    words = [word for n, text in system.items() for word in ("--system-prompt", f"{n}={text}")]
    found = said(
        *(capsys, "workload", "parent", "--questions", "asked.jsonl", "--max-tokens", "9"),
        *("--share", "on=1", "--share", "off=1", *words),
    )
    shares = {"on": 1.0, "off": 1.0}
    how = {"max_tokens": 9, "system_prompts": system}
    assert found == answer_workload("parent", QUESTIONS, shares=shares, **how).to_dict()
    rows = [json.dumps({"question": each, "answer": each}) for each in QUESTIONS]
    Path("sums.jsonl").write_text("\n".join(rows))
    given = ("evaluate", "child", "--task", "sums.jsonl", "--thinking", "both")
    measured = said(capsys, *given, "--max-tokens", "9", *words)
    how |= {"tasks": [Path("sums.jsonl")], "thinking": "both"}
    assert measured == puzzle.evaluate("child", **how).to_dict()


def test_tasks_of_reasoning_gym_are_named_on_the_command_line(place, capsys):
    pytest.importorskip("reasoning_gym", reason="it is in the extra [posttrain]")
    how = {"thinking": "both", "max_tokens": 9}
    given = ("--gym", "chain_sum", "--gym-size", "3", "--thinking", "both", "--max-tokens", "9")
    measured = said(capsys, "evaluate", "parent", *given)
    rows = gym_tasks("chain_sum", size=3, seed=1)
    columns = {f"{name}s": [row[name] for row in rows] for name in ("question", "answer")}
    task = puzzle.evaluation.AnswerTask(name="chain_sum", **columns, scorer=gym_equal)
    assert measured == puzzle.evaluate("parent", tasks=[task], **how).to_dict()
    assert [each["questions"] for each in measured["answers"]["child"]] == [3, 3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "on=first.txt", "--text", "second.txt"], "write NAME=FILE"),
        (["--text", "a=first.txt", "--text", "a=second.txt"], "a is given twice"),
        (["--text", "a=first.txt", "--text", "b=none.txt"], "no text file none.txt"),
        (["--text", "first.txt", "--share", "on=1"], "--share is for several texts"),
        (["--text", "a=first.txt", "--text", "b=second.txt", "--share", "a=x"], "NAME=NUMBER"),
        (["--text", "first.txt", "--workload", "asked.jsonl"], "asked.jsonl is not a workload"),
        (["--text", "first.txt", "--workload", "x", "--batch", "2"], "says what is served"),
    ],
)
def test_texts_and_scenarios_that_say_nothing_are_refused_before_any_work(
    tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    for name in ("first.txt", "second.txt", "asked.jsonl"):
        Path(name).write_text("some words")
    assert main(["search", "parent", *words]) == (1 if "no text file" in message else 2)
    assert message in capsys.readouterr().err
    assert not Path("puzzle-run").exists()
