"""Claims about GGUF files: nothing of the model in them is lost, or they are refused by name."""

import shutil

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from puzzle.errors import ParentError, PuzzleError
from puzzle.evaluation.evaluating import evaluate
from puzzle.models.gguf_header import read_gguf_header
from puzzle.models.parent import open_parent
from puzzle.models.pretrained import load_model
from puzzle.serving.exporting import export
from puzzle.storage.workspace import Workspace
from tests.factories.families import family_config, shaken
from tests.factories.gguf_parents import gguf_tensors, write_gguf_parent
from tests.factories.parents import parent_model

SIZES = {"vocab_size": 300, "max_position_embeddings": 256}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Llama 3.1 and 3.2 as published.
LLAMA31 = {**LLAMA3, "rope_theta": 500000.0, "original_max_position_embeddings": 8192}
LLAMA32 = {**LLAMA31, "factor": 32.0}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}


def logits(model, length=200):
    tokens = torch.arange(length)[None] % 60
    with torch.no_grad():
        return model.eval()(tokens).logits


def parent_logits(parent, length=200):
    x = parent.embed(torch.arange(length)[None] % 60)
    for index in range(parent.shape.layers):
        x = parent.run(parent.layer(index), x)
    return parent.head()(x)


@pytest.mark.parametrize("rope", [None, LINEAR, LLAMA3, LLAMA31, LLAMA32])
def test_a_gguf_opens_as_the_model_that_it_was_made_from_beyond_the_first_positions_too(
    rope, tmp_path
):
    model = parent_model(**SIZES, **({"rope_parameters": rope} if rope else {}))
    file = export(model, tmp_path / "out", engine="llama.cpp", quantisation="f32").path
    # As puzzle writes it, layers may differ; as llama.cpp's converter does, they are equal.
    with pytest.raises(ParentError, match="deci"):
        read_and_open(file, tmp_path)
    freqs = [t for t in gguf.GGUFReader(file).tensors if t.name == "rope_freqs.weight"]
    tensors = gguf_tensors(model)
    tensors |= {t.name: torch.tensor(t.data) for t in freqs}
    assert bool(freqs) is (rope is not None and rope["rope_type"] == "llama3")
    fields = []
    if rope == LINEAR:
        fields = [
            ("add_rope_scaling_type", gguf.RopeScalingType.LINEAR),
            ("add_rope_scaling_factor", 4.0),
        ]
    file = write_gguf_parent(tmp_path / "x.gguf", model, tensors=tensors, fields=fields)
    parent = read_and_open(file, tmp_path)
    torch.testing.assert_close(parent_logits(parent), logits(model), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(load_model(file)), logits(model), rtol=1e-4, atol=1e-4)
    if rope is not None:
        assert {**parent.config.rope_parameters} == rope
        plain = LlamaForCausalLM(LlamaConfig.from_dict(model.config.to_dict()))
        plain.load_state_dict(model.state_dict())
        plain.model.rotary_emb.inv_freq = 10000.0 ** -(torch.arange(0, 8, 2) / 8)
        assert (logits(plain) - logits(model)).abs().max() > 1e-2


def read_and_open(file, tmp_path):
    return open_parent(file, workspace=Workspace(tmp_path / "run"), dtype="float32")


def without(model, name):
    tensors = gguf_tensors(model)
    del tensors[name]
    return tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"fields": [("add_uint16", "split.count", 3), ("add_uint16", "split.no", 1)]},
            "part 2 of 3",
        ),
        (
            {
                "fields": [
                    ("add_rope_scaling_type", gguf.RopeScalingType.YARN),
                    ("add_rope_scaling_factor", 4.0),
                ]
            },
            "scales its rotary embedding by 'yarn'",
        ),
        ({"fields": [("add_expert_count", 4)]}, "'expert_count'"),
        ({"fields": [("add_logit_scale", 0.5)]}, "'logit_scale'"),
        ({"fields": [("add_sliding_window", 32)]}, "'attention.sliding_window'"),
        ({"fields": [("add_key_length", 16)]}, "rotates 8 of '16' channels"),
        ({"extra": ("blk.1.attn_q.bias", torch.ones(48))}, r"blk\.1\.attn_q\.bias"),
        ({"extra": ("blk.0.attn_sinks.weight", torch.ones(6))}, r"attn_sinks"),
        (
            {"extra": ("rope_freqs.weight", torch.tensor([1.0, 3.0, 2.0, 8.0]))},
            "not as Llama 3 does",
        ),
        ({"lacks": "blk.2.ffn_up.weight"}, r"lacks the tensors 'model\.layers\.2\.mlp\.up_proj"),
        ({"lacks": "output_norm.weight"}, r"lacks the tensors 'model\.norm\.weight'"),
    ],
)
def test_what_transformers_would_drop_or_make_up_is_refused_by_name(change, message, tmp_path):
    model = parent_model(**SIZES)
    tensors = gguf_tensors(model)
    if "extra" in change:
        tensors |= dict([change["extra"]])
    tensors.pop(change.get("lacks"), None)
    file = write_gguf_parent(
        tmp_path / "x.gguf", model, tensors=tensors, fields=change.get("fields", ())
    )
    with pytest.raises(ParentError, match=message):
        read_and_open(file, tmp_path)
    with pytest.raises(PuzzleError, match=message):
        evaluate(file, data=torch.zeros(1, 8, dtype=torch.long))


@pytest.mark.parametrize("factor", [None, 8.0])
def test_a_gemma_3_is_read_with_its_norms_windows_and_ropes(factor, tmp_path):
    config = family_config("gemma3_text", head_dim=256, query_pre_attn_scalar=256)
    config.tie_word_embeddings = True
    fields = []
    if factor:
        config.rope_parameters["full_attention"] |= {"rope_type": "linear", "factor": factor}
        fields = [
            ("add_rope_scaling_type", gguf.RopeScalingType.LINEAR),
            ("add_rope_scaling_factor", factor),
        ]
    torch.manual_seed(0)
    model = shaken(AutoModelForCausalLM.from_config(config).eval())
    file = write_gguf_parent(tmp_path / "x.gguf", model, fields=fields)
    torch.testing.assert_close(logits(load_model(file)), logits(model), rtol=1e-4, atol=1e-4)


def test_a_gemma_3_whose_scores_have_another_scale_than_files_can_say_is_refused(tmp_path):
    config = family_config("gemma3_text", head_dim=128, query_pre_attn_scalar=168)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ParentError, match=r"'attention\.key_length'"):
        load_model(write_gguf_parent(tmp_path / "x.gguf", model))


def test_an_untied_head_of_a_gguf_is_used(tmp_path):
    model = parent_model(**SIZES, tie_word_embeddings=False)
    parent = read_and_open(write_gguf_parent(tmp_path / "x.gguf", model), tmp_path)
    torch.testing.assert_close(parent_logits(parent), logits(model), rtol=1e-4, atol=1e-4)


def test_the_header_is_that_of_the_gguf_package(tmp_path):
    model = parent_model(**SIZES)
    file = write_gguf_parent(tmp_path / "x.gguf", model)
    header, reader = read_gguf_header(file), gguf.GGUFReader(file)
    assert header.tensors.keys() == {tensor.name for tensor in reader.tensors}
    for tensor in reader.tensors:
        own = header.tensors[tensor.name]
        assert own.shape == tuple(map(int, tensor.shape[::-1]))
        assert (own.kind, own.offset) == (tensor.tensor_type, tensor.data_offset)
    for name, value in header.fields.items():
        expected = reader.fields[name].contents()
        assert (value == expected) or value == expected[: len(value)]


def test_a_gguf_that_is_replaced_while_it_is_unpacked_leaves_no_parent(tmp_path, monkeypatch):
    """The file is exchanged right after its weights were read, before they are published."""
    first, other = parent_model(**SIZES), parent_model(**SIZES, initializer_range=0.5)
    other.model.norm.weight.data.mul_(1.5)
    file = write_gguf_parent(tmp_path / "x.gguf", first)
    new = write_gguf_parent(tmp_path / "new.gguf", other)
    import puzzle.models.unpacking as opening

    def read_and_replace(path, **options):
        model = load_model(path, **options)
        shutil.copy(new, file)
        return model

    with monkeypatch.context() as patched:
        patched.setattr(opening, "load_model", read_and_replace)
        with pytest.raises(ParentError, match=r"x\.gguf was changed while it was in use"):
            read_and_open(file, tmp_path)
    parent = read_and_open(file, tmp_path)
    assert torch.equal(parent.tensors["model.norm.weight"], other.model.norm.weight.data)
