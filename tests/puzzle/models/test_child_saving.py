"""Claims about children that their owners save with transformers, and what they are called."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import puzzle
from puzzle.errors import PuzzleError
from puzzle.models import model_writing
from puzzle.models.child_config import config_from_layout
from puzzle.models.families import LLAMA
from puzzle.models.model_writing import StreamedModel, open_streamed
from puzzle.models.pretrained import load_model
from puzzle.storage.publishing import publishing_directory, written_files
from search_space import Layout
from tests.factories.children import MIXED, child_of
from tests.factories.parents import parent_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def published(tmp_path):
    with publishing_directory(tmp_path / "child") as stage:
        child_of(MIXED).save_pretrained(stage)
        (stage / "notes.txt").write_text("puzzle's")
    return tmp_path / "child"


def trained(directory):
    model = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    return model


def flip_last_bit(file):
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def test_a_child_that_its_owner_saved_over_itself_opens_with_the_new_weights(published):
    model = trained(published)
    model.save_pretrained(published)
    again = load_model(str(published))
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert puzzle.export(published, published.parent / "out", engine="vllm").path.is_dir()


def test_only_what_was_overwritten_leaves_the_record(published):
    before = written_files(published)
    trained(published).save_pretrained(published)
    after = written_files(published)
    assert WEIGHTS in before
    assert WEIGHTS not in after
    assert after["notes.txt"] == before["notes.txt"]
    assert not list(published.glob(".puzzle_files*"))


def test_puzzle_does_not_replace_weights_that_the_owner_saved(published):
    trained(published).save_pretrained(published)
    with (
        pytest.raises(PuzzleError, match=rf"puzzle did not write.*{WEIGHTS}"),
        publishing_directory(published, claims=("model*.safetensors",)),
    ):
        pass


def test_a_flipped_bit_is_refused_also_after_a_save_elsewhere(published):
    trained(published).save_pretrained(published.parent / "elsewhere")
    flip_last_bit(published / WEIGHTS)
    with pytest.raises(PuzzleError, match=f"{WEIGHTS} is not what puzzle wrote"):
        load_model(str(published))


def test_a_save_by_another_process_of_a_group_leaves_the_record(published):
    before = written_files(published)
    trained(published).save_pretrained(published, is_main_process=False)
    assert written_files(published) == before


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"format": 1, "files": 3})])
def test_a_damaged_record_does_not_stop_a_save_and_is_named_by_readers(published, text):
    record = published / "puzzle_files.json"
    record.write_text(text)
    trained(published).save_pretrained(published)
    assert record.read_text() == text
    with pytest.raises(PuzzleError, match=r"puzzle_files\.json"):
        load_model(str(published))


def test_a_head_saved_over_a_child_opens(published):
    model = AutoModelForSequenceClassification.from_pretrained(published, num_labels=2)
    model.save_pretrained(published)
    assert WEIGHTS not in written_files(published)


def test_a_child_is_not_called_as_its_parent(tmp_path):
    parent_model().save_pretrained(tmp_path)
    parent = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert parent.name_or_path == str(tmp_path)
    config = config_from_layout(parent.config, Layout.parent(LLAMA.shape(parent.config)))
    child = AutoModelForCausalLM.from_config(config)
    assert child.name_or_path == child.config._name_or_path == ""


def test_a_reference_model_is_made_from_the_name_of_a_child_that_was_saved(tmp_path):
    child = child_of(MIXED)
    child.save_pretrained(tmp_path / "first")
    child.save_pretrained(tmp_path / "second")
    assert child.name_or_path == child.config._name_or_path == str(tmp_path / "first")
    for place in (child.name_or_path, child.config._name_or_path):
        reference = AutoModelForCausalLM.from_pretrained(place)
        ours = child.state_dict()
        assert all(torch.equal(t, ours[n]) for n, t in reference.state_dict().items())
        assert reference.name_or_path == place


ADAPTED = """
import sys
import {first}
import {second}
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
model = get_peft_model(AutoModelForCausalLM.from_pretrained(sys.argv[1]), LoraConfig(r=2))
names = {{n.split(".")[-4] for n, p in model.named_parameters() if p.requires_grad}}
assert names == {{"q_proj", "v_proj"}}, names
"""


@pytest.mark.parametrize("order", [("puzzle", "peft"), ("peft", "puzzle")])
def test_peft_adapts_a_child_without_target_modules_as_its_parent(tmp_path, order):
    pytest.importorskip("peft")
    child_of(MIXED).save_pretrained(tmp_path)
    code = ADAPTED.format(first=order[0], second=order[1])
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_peft_has_the_parents_targets_for_children_of_every_family_it_knows():
    constants = pytest.importorskip("peft.utils.constants")
    for name, table in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and isinstance(table, dict):
            for kind in ("mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3"):
                assert table.get(f"puzzle_{kind}") == table.get(kind), (name, kind)
            assert table.get("puzzle") == table.get("llama"), name


def test_a_child_in_several_shards_is_written_as_transformers_writes_it(tmp_path, monkeypatch):
    child = child_of(MIXED)
    child.save_pretrained(tmp_path / "whole", max_shard_size=20_000)
    monkeypatch.setattr(model_writing, "SHARD_BYTES", 20_000)
    (tmp_path / "streamed").mkdir()
    open_streamed(tmp_path / "whole").save(tmp_path / "streamed")
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert len(files) > 4
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "streamed").iterdir()}


def test_a_child_is_not_written_with_tensors_of_another(tmp_path):
    child_of(MIXED).save_pretrained(tmp_path / "child")
    streamed = open_streamed(tmp_path / "child")
    name = next(iter(streamed.tensors))
    for tensors, part in (
        ({**streamed.tensors, name: torch.zeros(1)}, "is .1. instead of"),
        ({**streamed.tensors, "more": torch.zeros(1)}, "more has no place"),
        ({k: v for k, v in streamed.tensors.items() if k != name}, "missing"),
    ):
        with pytest.raises(PuzzleError, match=f"do not fit the layout: .*{part}"):
            StreamedModel(model=streamed.model, tensors=tensors).save(tmp_path)
