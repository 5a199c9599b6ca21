"""Claims about files that others wrote: bounded, inside their directory, and named when damaged."""

import json
import struct
import time
import tracemalloc

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from puzzle.errors import ParentError, PuzzleError
from puzzle.models import shards as shards_module
from puzzle.models.gguf_header import read_gguf_header
from puzzle.models.parent import open_parent
from puzzle.models.pretrained import load_config, load_model
from puzzle.models.shards import Shards, shard_names
from puzzle.storage.hashing import hash_file
from puzzle.storage.workspace import Workspace
from tests.factories.gguf_parents import write_gguf_parent
from tests.factories.parents import parent_model, save_parent

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# The same examples every time, so that a failure is not a matter of luck.
FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "sub/../../x.safetensors",
        "/x.safetensors",
        "..\\x.safetensors",
        "C:\\x.safetensors",
        "sub/../x.safetensors",
        "x.bin",
        "",
        "x\0.safetensors",
        3,
        None,
        ["x.safetensors"],
    ],
)
def test_shards_outside_of_the_directory_are_not_opened(name, saved, tmp_path):
    weights = (saved / SINGLE).rename(tmp_path / "x.safetensors")
    (saved / "sub").mkdir()
    if name == "/x.safetensors":
        name = str(weights)
    (saved / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    for call in (
        shard_names,
        Shards,
        lambda p: open_parent(p, workspace=Workspace(tmp_path / "r")),
    ):
        with pytest.raises(ParentError, match="names the shard") as raised:
            call(saved)
        assert INDEX in str(raised.value)


def test_a_link_that_is_a_shard_is_followed_as_the_hub_cache_needs_it(saved, tmp_path):
    (tmp_path / "blobs").mkdir()
    blob = (saved / SINGLE).rename(tmp_path / "blobs" / "0123")
    (saved / SINGLE).symlink_to(blob)
    parent = open_parent(saved, workspace=Workspace(tmp_path / "run"), dtype="float32")
    assert parent.shape.layers == 3


def test_a_tensor_in_two_shards_is_refused(saved):
    for name in ("one.safetensors", "two.safetensors"):
        (saved / name).write_bytes((saved / SINGLE).read_bytes())
    (saved / SINGLE).unlink()
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (saved / INDEX).write_text(json.dumps(index))
    with pytest.raises(ParentError, match=r"twice, in one\.safetensors and in two\.safetensors"):
        Shards(saved)


def attempt(call, name):
    """Whether a call came back with a value, within bounds; else its error names the file."""
    start = time.monotonic()
    tracemalloc.start()
    try:
        call()
    except PuzzleError as error:
        said = str(error)
    else:
        said = ""
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200 * 2**20
        assert time.monotonic() - start < 20
    assert not said or name in said
    return not said


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return save_parent(tmp_path_factory.mktemp("fuzz") / "parent")


@pytest.fixture(scope="module")
def whole(place):
    return {file: (place / file).read_bytes() for file in ("config.json", SINGLE)}


@pytest.fixture(autouse=True)
def restored(request):
    yield
    if "whole" in request.fixturenames:
        folder = request.getfixturevalue("place")
        for file, content in request.getfixturevalue("whole").items():
            (folder / file).write_bytes(content)
        (folder / INDEX).unlink(missing_ok=True)


def opening(place, tmp_path):
    return lambda: open_parent(place, workspace=Workspace(tmp_path / "run"), dtype="float32")


@FUZZ
@given(data=st.data())
def test_damaged_safetensors_are_named(data, place, whole, tmp_path):
    content = bytearray(whole[SINGLE])
    header = struct.unpack("<Q", content[:8])[0]
    kind = data.draw(st.sampled_from(["cut", "flip", "length", "header"]))
    if kind == "cut":
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    elif kind == "flip":
        at = data.draw(st.integers(0, header + 8))
        content[at] ^= data.draw(st.integers(1, 255))
    elif kind == "length":
        content[:8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    else:
        text = json.dumps(data.draw(ANY_JSON)).encode()
        content = struct.pack("<Q", len(text)) + text
    (place / SINGLE).write_bytes(content)
    attempt(opening(place, tmp_path), str(place))


@FUZZ
@given(data=st.data())
def test_any_index_is_a_value_or_named(data, place, whole, tmp_path):
    names = st.sampled_from([SINGLE, "x.safetensors", "../x.safetensors"]) | ANY_JSON
    index = data.draw(
        ANY_JSON
        | st.fixed_dictionaries(
            {"weight_map": ANY_JSON | st.dictionaries(st.text(max_size=5), names, max_size=3)}
        )
    )
    (place / SINGLE).unlink()
    (place / INDEX).write_text(json.dumps(index))
    assert not attempt(opening(place, tmp_path), str(place))
    (place / SINGLE).write_bytes(whole[SINGLE])


KEYS = (
    *("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
    *("num_key_value_heads", "intermediate_size", "vocab_size", "rope_parameters", "rope_theta"),
    *("rms_norm_eps", "tie_word_embeddings", "hidden_act", "dtype", "max_position_embeddings"),
    *("attention_bias", "mlp_bias", "quantization_config", "architectures", "layer_types"),
    *("eos_token_id", "bos_token_id", "pad_token_id", "auto_map", "transformers_weights"),
)
SIZES = st.sampled_from([-1, 0, 1, 3, 2**31, 2**63, 10**30, 1e300, "3", "1e9"])


@FUZZ
@given(changes=st.dictionaries(st.sampled_from(KEYS), SIZES | ANY_JSON, min_size=1, max_size=2))
def test_any_config_is_a_value_or_named(changes, place, whole, tmp_path):
    config = {**json.loads(whole["config.json"]), **changes}
    (place / "config.json").write_text(json.dumps(config))
    attempt(opening(place, tmp_path), "config")
    attempt(lambda: load_config(place), str(place))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model_type": "puzzle", "blocks": 3}',
    ],
)
def test_a_config_that_is_none_is_named(content, place, whole, tmp_path):
    (place / "config.json").write_bytes(content)
    assert not attempt(opening(place, tmp_path), str(place))


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    model = parent_model(vocab_size=300, num_hidden_layers=1)
    return write_gguf_parent(tmp_path_factory.mktemp("fuzz") / "x.gguf", model)


@FUZZ
@given(data=st.data())
def test_damaged_ggufs_are_named(data, gguf_file, tmp_path):
    content = bytearray(gguf_file.read_bytes())
    start = min(t.offset for t in read_gguf_header(gguf_file).tensors.values())
    kind = data.draw(st.sampled_from(["cut", "flip", "count", "noise"]))
    if kind == "cut":
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    elif kind == "flip":
        at = data.draw(st.integers(0, start - 1))
        content[at] ^= data.draw(st.integers(1, 255))
    elif kind == "count":
        at = data.draw(st.integers(8, start - 8))
        content[at : at + 8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    else:
        content[data.draw(st.sampled_from([0, 4, 24])) :] = data.draw(st.binary(max_size=200))
    file = tmp_path / "damaged.gguf"
    file.write_bytes(content)
    attempt(lambda: read_gguf_header(file), str(file))
    attempt(lambda: load_config(file), str(file))


def test_an_array_of_2_to_the_60_items_is_refused_at_once(tmp_path):
    """The gguf package loops over as many items as the file says that there are."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    field = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 4, 2**60)
    file = tmp_path / "bomb.gguf"
    file.write_bytes(head + field)
    for call in (read_gguf_header, load_config, load_model):
        assert not attempt(lambda call=call: call(file), str(file))


def test_what_opens_after_damage_is_what_transformers_opens(place, whole, tmp_path):
    parent = opening(place, tmp_path)()
    expected = AutoModelForCausalLM.from_pretrained(place).state_dict()
    assert {k: t.tolist() for k, t in parent.tensors.items()} == {
        k: t.tolist() for k, t in expected.items()
    }


def test_one_pass_gives_the_hash_of_a_file_and_its_tensors_that_are_not_finite(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(shards_module, "PIECE", 64)
    torch.manual_seed(0)
    tensors = {
        f"{name}-{dtype}": torch.randn(5, 9).to(dtype)
        for name in ("good", "nan", "inf")
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    }
    for name, tensor in tensors.items():
        if "good" not in name:
            tensor[4, 8 if "64" in name else 0] = float(name.partition("-")[0])
    file = tmp_path / "w.safetensors"
    save_file({**tensors, "count": torch.arange(40)}, file, {"format": "pt"})
    bad = [name for name in tensors if "good" not in name]
    digest, found = shards_module.read_once(file, tensors.keys())
    assert digest == hash_file(file)
    assert sorted(found) == sorted(bad)
    assert shards_module.read_once(file, [bad[0]]) == (digest, [bad[0]])
