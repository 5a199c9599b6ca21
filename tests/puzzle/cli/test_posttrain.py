"""Claims about `puzzle posttrain`: options of each stage, and a run of all of them by TRL."""

import json
from pathlib import Path

import pytest

from puzzle.cli import main
from tests.factories.posttraining import LAYOUTS, save_pair
from tests.puzzle.cli.test_program import said

QUESTIONS = [f"{letter}?" for letter in "abcdefgh"]


def write(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


@pytest.fixture
def place(tmp_path, monkeypatch):
    save_pair(tmp_path, "llama", LAYOUTS["mixed"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("posttrain sft", "model is missing"),
        ("posttrain ppo child", "allowed: traces, sft, rl, align"),
        ("posttrain sft child", "rows is missing"),
        ("posttrain sft child --rows x --samples 3", "--samples is no option of the stage sft"),
        ("posttrain rl child", "give --rows FILE, or --gym NAME"),
        ("posttrain rl child --rows x --method dpo", "--method dpo: allowed: grpo, rloo"),
        ("posttrain rl child --rows x --set y", "write NAME=VALUE"),
        ("posttrain sft child --rows x --system-prompt on=a", "write on=TEXT and off=TEXT"),
        ("posttrain rl child --rows x --scorer none.such", "--scorer none.such"),
        ("posttrain traces http://localhost/v1 --rows x", "server-model is missing"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_read(place, capsys, line, message):
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err
    assert {each.name for each in place.iterdir()} == {"parent", "child"}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_all_stages_run_from_the_command_line_and_take_each_others_children(place, capsys):
    pytest.importorskip("trl", reason="TRL is in the extra [posttrain], which is not installed")
    pairs = [{"prompt": q, "completion": "<think>so</think>ok", "answer": "ok"} for q in QUESTIONS]
    write("pairs.jsonl", pairs)
    fields = ["max_steps=60", "per_device_train_batch_size=16", "learning_rate=0.01", "bf16=false"]
    common = [word for field in fields for word in ("--set", field)]
    Path("sft.toml").write_text('[posttrain]\nrows = "pairs.jsonl"\ncut-share = 0.0\n')
    found = said(
        *(capsys, "posttrain", "sft", "child", "--config", "sft.toml", "--add-switch", *common)
    )
    assert found["figures"]["rows, thinking on"] == 8
    traced = said(
        *(capsys, "posttrain", "traces", "sft/child", "--rows", "pairs.jsonl", "--samples", "2"),
        *("--max-tokens", "16"),
    )
    assert all(each["kept"] > 8 for each in traced["counts"].values())
    few = ["--set", "max_steps=2", "--set", "per_device_train_batch_size=4"]
    trained = said(
        *(capsys, "posttrain", "rl", "sft/child", "--rows", "pairs.jsonl", "--method", "rloo"),
        *(*few, "--set", "num_generations=4", "--set", "max_completion_length=12"),
    )
    assert trained["figures"]["prompts"] == 16
    preferences = [{"prompt": q, "chosen": "ok", "rejected": "no"} for q in QUESTIONS]
    write("preferences.jsonl", preferences)
    aligned = said(
        *(capsys, "posttrain", "align", "rl/child", "--rows", "preferences.jsonl"),
        *("--method", "apo_zero", *few, "--set", "learning_rate=1e-4"),
    )
    assert aligned["figures"]["in form after, thinking off"] == 1
    again = said(capsys, "posttrain", "align", "--config", "align/posttrain-align.toml")
    assert again == aligned
