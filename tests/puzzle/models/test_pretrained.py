"""Claims about what is read through transformers: never code of a repository, never pickles."""

import io
import json
import shutil
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from puzzle.cli import main
from puzzle.errors import ExportError, ParentError
from puzzle.models.parent import open_parent
from puzzle.models.pretrained import (
    load_config,
    load_generation_config,
    load_model,
    load_tokenizer,
)
from puzzle.storage.workspace import Workspace
from tests.factories.hostile import want_code
from tests.factories.parents import save_parent, text

NO_CODE = "needs Python code from its repository, which puzzle does not run"
# {bad} wants to run code of its own; {good} is a parent, {child} a child, {text} a text.
WITH_MODELS = [
    "search {bad} --text {text} --dry-run",
    "search {bad} --text {text}",
    "distill {bad} {good} --data {text} --tokens 64 --length 16",
    "distill {child} {bad} --data {text} --tokens 64 --length 16",
    "evaluate {bad} --data {text}",
    "evaluate {child} --parent {bad} --data {text}",
    "export {bad} {out} --engine vllm",
    "export {bad} {out} --engine llama.cpp",
    "serve-check {bad} --engine transformers",
]
WITH_TOKENIZERS = [
    "search {bad} --text {text}",
    "distill {bad} {good} --data {text} --tokens 64 --length 16",
    "distill {child} {bad} --data {text} --tokens 64 --length 16",
    "evaluate {bad} --data {text}",
    "export {bad} {out} --engine llama.cpp",
    "serve-check {bad} --engine transformers",
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    (folder / "text.txt").write_text("\n\n".join(text()))
    good = save_parent(folder / "good")
    for name, tokenizer in (("model", False), ("tokenizer", True)):
        shutil.copytree(good, folder / name)
        want_code(folder / name, folder / "mark", tokenizer=tokenizer)
    return folder


@pytest.mark.parametrize(
    ("bad", "command"),
    [("model", line) for line in WITH_MODELS] + [("tokenizer", line) for line in WITH_TOKENIZERS],
)
def test_code_of_a_repository_is_refused_without_asking_though_stdin_says_yes(
    bad, command, places, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    answers = "yes\n" * 50
    monkeypatch.setattr("sys.stdin", io.StringIO(answers))
    given = {
        "bad": places / bad,
        "good": places / "good",
        "child": places / "good",
        "text": places / "text.txt",
        "out": tmp_path / "out",
    }
    assert main(command.format(**given).split()) == 1
    assert NO_CODE in capsys.readouterr().err
    assert not (places / "mark").exists()
    assert not (tmp_path / "out").exists()
    assert sys.stdin.read() == answers


def test_the_caller_of_open_parent_may_allow_the_code_of_a_tokenizer(places, tmp_path):
    workspace = Workspace(tmp_path / "run")
    with pytest.raises(ParentError, match=r"open_parent\(\.\.\., trust_remote_code=True\)"):
        open_parent(places / "tokenizer", workspace=workspace)
    opened = open_parent(places / "tokenizer", workspace=workspace, trust_remote_code=True)
    assert type(opened.tokenizer).__name__ == "OwnTokenizer"
    assert (places / "mark").read_text() == "this ran"
    (places / "mark").unlink()


@pytest.mark.parametrize("command", ["evaluate {bad} --data {text}", "serve-check {bad} {engine}"])
def test_pickled_weights_are_not_opened(command, places, tmp_path, capsys):
    bad = shutil.copytree(places / "good", tmp_path / "pickled")
    model = AutoModelForCausalLM.from_pretrained(bad)
    torch.save(model.state_dict(), bad / "pytorch_model.bin")
    (bad / "model.safetensors").unlink()
    given = {"bad": bad, "text": places / "text.txt", "engine": "--engine transformers"}
    assert main(command.format(**given).split()) == 1
    assert "safetensors" in capsys.readouterr().err


def test_what_is_read_is_what_transformers_reads(places, tmp_path):
    good = places / "good"
    expected = AutoModelForCausalLM.from_pretrained(good)
    model = load_model(good)
    assert not model.training
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert load_config(good).to_dict() == expected.config.to_dict()
    assert load_tokenizer(str(good))("w3 w5")["input_ids"] == [5, 7]
    GenerationConfig(eos_token_id=[2, 7]).save_pretrained(tmp_path)
    assert load_generation_config(tmp_path).eos_token_id == [2, 7]


@pytest.mark.parametrize("load", [load_config, load_tokenizer, load_model, load_generation_config])
def test_every_failure_names_the_source_with_the_error_that_is_wanted(load, tmp_path):
    for content in ("{", "[]", json.dumps({"model_type": 3}), "\0\xff"):
        place = tmp_path / "broken"
        place.mkdir(exist_ok=True)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (place / name).write_text(content)
        (place / "generation_config.json").write_text("{")
        with pytest.raises(ExportError, match="broken") as raised:
            load(place, error=ExportError)
        assert str(place) in str(raised.value)
