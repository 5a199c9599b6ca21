"""Claims about GGUF files that are read once: the same comes out, and nothing stays changed."""

import importlib.util
import threading

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig

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
