"""Claims about GGUF files that are read once: the same comes out, and nothing stays changed."""

import hashlib
import importlib.util
import threading
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig

from puzzle.errors import ParentError
from puzzle.models import shards
from puzzle.models.gguf_reading import files_read_once
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from tests.factories.gguf_parents import write_gguf_parent
from tests.factories.parents import parent_model

SIZES = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "head_dim": 32}
READER, NAMES = gguf.GGUFReader, gguf.get_tensor_name_map


@pytest.fixture
def file(tmp_path):
    model = parent_model(**SIZES, num_attention_heads=2, num_key_value_heads=1)
    return write_gguf_parent(tmp_path / "x.gguf", model, kind=gguf.GGMLQuantizationType.Q4_1)


def unpacked(file, place):
    parent = open_parent(file, workspace=Workspace(place), dtype="float32")
    return parent.tensors.directory


def test_what_is_unpacked_is_to_the_byte_what_transformers_unpacks(file, tmp_path):
    place, name = str(file.parent), file.name
    own = unpacked(file, tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(
        place,
        gguf_file=name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    expected, tensors = model.state_dict(), load_file(own / "model.safetensors")
    assert expected.keys() - tensors.keys() <= {"lm_head.weight"}
    assert tensors
    assert all(torch.equal(tensors[name], expected[name]) for name in tensors)
    AutoTokenizer.from_pretrained(place, gguf_file=name).save_pretrained(tmp_path / "theirs")
    for part in ("tokenizer.json", "tokenizer_config.json"):
        assert (own / part).read_bytes() == (tmp_path / "theirs" / part).read_bytes()
    config = AutoConfig.from_pretrained(place, gguf_file=name).to_dict()
    said = AutoConfig.from_pretrained(own).to_dict()
    kept = config.keys() - {"dtype", "architectures", "_name_or_path", "transformers_version"}
    assert {key: said[key] for key in kept} == {key: config[key] for key in kept}


def test_a_file_is_read_and_the_names_are_made_once_while_it_is_unpacked(
    file, tmp_path, monkeypatch
):
    calls = []

    class Counting(READER):
        def __init__(self, *args, **options):
            calls.append("reader")
            super().__init__(*args, **options)

    def counting(*args):
        calls.append("names")
        return NAMES(*args)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    monkeypatch.setattr(gguf, "get_tensor_name_map", counting)
    unpacked(file, tmp_path / "run")
    assert sorted(calls) == ["names", "reader"]


def test_the_weights_are_hashed_once_by_each_opening(file, tmp_path, monkeypatch):
    """By the package hashlib for the workspace, or together with the check of what is finite."""
    whole, looked = [], []

    def hashing(opened, *args):
        whole.append(Path(opened.name).name)
        return file_digest(opened, *args)

    def checking(path, names):
        looked.append(path.name)
        return read_once(path, names)

    file_digest, read_once = hashlib.file_digest, shards.read_once
    monkeypatch.setattr(hashlib, "file_digest", hashing)
    monkeypatch.setattr(shards, "read_once", checking)
    first = open_parent(file, workspace=Workspace(tmp_path), dtype="float32")
    assert (whole.count("model.safetensors"), looked) == (0, ["model.safetensors"])
    again = open_parent(file, workspace=Workspace(tmp_path), dtype="float32")
    assert (whole.count("model.safetensors"), len(looked)) == (1, 1)
    assert whole.count("tokenizer.json") == 2
    monkeypatch.undo()
    direct = open_parent(first.tensors.directory, workspace=Workspace(tmp_path), dtype="float32")
    assert first.weights == again.weights == direct.weights


def test_what_was_unpacked_and_is_altered_is_found_before_and_while_it_is_used(file, tmp_path):
    def opened():
        return open_parent(file, workspace=Workspace(tmp_path), dtype="float32")

    def alter():
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)

    first = opened()
    weights = first.tensors.directory / "model.safetensors"
    name, sound = list(first.tensors)[-1], weights.read_bytes()
    alter()
    with pytest.raises(ParentError, match="was changed while it was in use"):
        first.tensors[name]
    again = opened()
    assert weights.read_bytes() == sound
    assert again.weights == first.weights
    alter()
    with pytest.raises(ParentError, match="was changed while it was in use"):
        again.require_unchanged()


def test_a_gguf_with_a_weight_that_is_not_finite_is_named_and_leaves_nothing(tmp_path):
    model = parent_model(**SIZES, num_attention_heads=2, num_key_value_heads=1)
    model.model.norm.weight.data[3] = float("nan")
    with pytest.raises(ParentError, match=r"'model.norm.weight' holds 1 NaN"):
        unpacked(write_gguf_parent(tmp_path / "x.gguf", model), tmp_path / "run")
    assert not list((tmp_path / "run").glob("parent/*"))


def test_blocks_share_a_reading_and_leave_the_package_as_it_was_after_an_error_too(file):
    with files_read_once():
        first = gguf.GGUFReader(file)
        with pytest.raises(ValueError, match="GGUF magic invalid"), files_read_once():
            gguf.GGUFReader(__file__)
        assert gguf.GGUFReader(file) is first
    with pytest.raises(ValueError, match="GGUF magic invalid"), files_read_once():
        gguf.GGUFReader(__file__)
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == (READER, NAMES)
    with files_read_once():
        assert gguf.GGUFReader(file) is not first


def test_other_threads_read_as_ever_and_those_that_share_readings_too_wait(file):
    order, got = [], []

    def other():
        got.append(gguf.GGUFReader(file))
        started.set()
        with files_read_once():
            order.append("other")
            got.append(gguf.GGUFReader(file))

    started, thread = threading.Event(), threading.Thread(target=other)
    with files_read_once():
        own = gguf.GGUFReader(file)
        thread.start()
        assert started.wait(60)
        order.append("own")
    thread.join(60)
    assert order == ["own", "other"]
    assert type(got[0]) is READER
    assert len({id(each) for each in (own, *got)}) == 3
    assert gguf.GGUFReader is READER


def test_without_the_package_a_block_does_nothing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with files_read_once():
        assert gguf.GGUFReader is READER
