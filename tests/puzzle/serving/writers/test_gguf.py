"""Claims about GGUF files of children and their tokenizers."""

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter, dequantize
from tokenizers import pre_tokenizers

from puzzle.errors import ExportError
from puzzle.serving.exporting import export
from puzzle.serving.writers.k_quants import FALLBACKS, MIXES, quantise
from search_space import ENGINES
from tests.factories.children import MIXED, byte_level_tokenizer, child_of


def test_a_gguf_says_what_llama_cpp_reads(tmp_path):
    done = export(child_of(MIXED), tmp_path, engine="llama.cpp")
    reader = GGUFReader(str(done.path))
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["general.architecture"] == "deci"
    assert fields["deci.attention.head_count"] == [6, 6, 6]
    assert fields["deci.attention.head_count_kv"] == [0, 0, 1]
    assert fields["deci.feed_forward_length"] == [9, 48, 32]
    assert fields["deci.rope.dimension_count"] == 8
    names = {tensor.name: list(map(int, tensor.shape)) for tensor in reader.tensors}
    assert "output.weight" not in names
    assert names["blk.0.attn_output.weight"] == [48, 48]
    assert "blk.1.ffn_gate.bias" in names
    assert names["blk.2.ffn_down.weight"] == [32, 48]


def test_removed_heads_are_in_no_tensor_of_a_gguf(tmp_path):
    done = export(
        child_of(["gqa2h4+gated64", "gqa1h2+none", *MIXED[:1]]), tmp_path, engine="llama.cpp"
    )
    reader = GGUFReader(str(done.path))
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["deci.attention.head_count"] == [4, 2, 0]
    assert fields["deci.attention.head_count_kv"] == [2, 1, 0]
    names = {tensor.name: list(map(int, tensor.shape)) for tensor in reader.tensors}
    assert names["blk.0.attn_q.weight"] == names["blk.0.attn_output.weight"][::-1] == [48, 32]
    assert names["blk.1.attn_k.weight"] == [48, 8]


def test_queries_and_keys_are_interleaved_head_by_head(tmp_path):
    model = child_of(["gqa1+gated64"] * 3)
    done = export(model, tmp_path, engine="llama.cpp")
    stored = {t.name: np.array(t.data) for t in GGUFReader(str(done.path)).tensors}
    own = model.model.layers[1].self_attn
    for name, weight in (("attn_q", own.q_proj.weight), ("attn_k", own.k_proj.weight)):
        rows = weight.detach().numpy().reshape(-1, 8, 48)
        # Rotary pair i of a head is rows i and i + 4 in transformers, 2 i and 2 i + 1 in deci.
        pairs = np.stack([rows[:, :4], rows[:, 4:]], 2).reshape(-1, 48)
        assert np.array_equal(stored[f"blk.1.{name}.weight"], pairs)


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_quantised_tensors_are_near_the_childs_and_identities_exact(kind, tmp_path):
    model = child_of(["gqa3+linear", "gqa3+gated9", "none+none"], hidden_size=96, vocab_size=64)
    done = export(model, tmp_path, engine="llama.cpp", quantisation=kind)
    found = {
        t.name: torch.tensor(dequantize(t.data, t.tensor_type))
        for t in GGUFReader(str(done.path)).tensors
    }
    bits = 8 if kind == "bf16" else 11 if kind == "f16" else int(kind[1])
    up = model.model.layers[0].mlp.linear_proj.weight
    assert (found["blk.0.ffn_up.weight"] - up).abs().max() < 2 * up.abs().max() / 2**bits
    assert torch.equal(found["blk.0.ffn_down.weight"], torch.eye(96) / 16)
    assert found["blk.1.ffn_down.weight"].shape == (96, 9 if kind.endswith("16") else 32)
    assert found["output_norm.weight"].equal(model.model.norm.weight)


# Mean square errors, as shares of that of the weights, at which the gguf package's own reading of a
# type can be told from that of the next one.
ERRORS = {"Q2_K": 0.12, "Q3_K": 0.03, "Q4_K": 0.007, "Q5_K": 0.002, "Q6_K": 5e-4, "Q8_0": 5e-5}
SIZES = {"hidden_size": 256, "head_dim": 32, "num_attention_heads": 8, "num_key_value_heads": 2}


@pytest.mark.parametrize("mix", MIXES)
def test_k_quants_are_read_by_gguf_as_the_childs_weights(mix, tmp_path):
    pytest.importorskip("xllamacpp", reason=ENGINES["llama.cpp"].install)
    labels = ["gqa2+gated512", "none+gated320", "gqa1+linear"]
    model = child_of(labels, **SIZES, intermediate_size=512)
    model.model.layers[0].self_attn.v_proj.weight.data *= 100  # a scale of its own
    done = export(model, tmp_path, engine="llama.cpp", quantisation=mix)
    stored = {t.name: t for t in GGUFReader(str(done.path)).tensors}
    types = {name: tensor.tensor_type.name for name, tensor in stored.items()}
    assert types["token_embd.weight"] == "Q6_K"
    assert types["blk.0.attn_q.weight"] == types["blk.1.ffn_gate.weight"] == MIXES[mix].upper()
    assert (
        types["blk.1.ffn_down.weight"] == FALLBACKS[types["blk.0.ffn_down.weight"].lower()].upper()
    )
    assert types["blk.2.ffn_down.weight"] == "F16"  # an identity, which has to stay exact
    layer = model.model.layers[0]
    own = {
        "attn_v": layer.self_attn.v_proj,
        "ffn_up": layer.mlp.up_proj,
        "ffn_down": layer.mlp.down_proj,
    }
    for name, module in own.items():
        tensor, weight = stored[f"blk.0.{name}.weight"], module.weight.detach()
        error = (torch.tensor(dequantize(tensor.data, tensor.tensor_type)) - weight).square().mean()
        assert 0 < error < ERRORS[tensor.tensor_type.name] * weight.square().mean()


def test_threads_change_no_byte_of_a_k_quant():
    pytest.importorskip("xllamacpp", reason=ENGINES["llama.cpp"].install)
    rows, threads = np.random.default_rng(0).normal(size=(7, 512)), torch.get_num_threads()
    one = quantise(rows, "q4_k")
    try:
        torch.set_num_threads(3)
        assert np.array_equal(quantise(rows, "q4_k"), one)
    finally:
        torch.set_num_threads(threads)


def test_tokenizer_and_chat_template_go_into_the_gguf_and_are_copied_between_ggufs(tmp_path):
    tokenizer = byte_level_tokenizer(eos_token="<end>")
    model = child_of(MIXED)
    first = export(model, tmp_path / "a", format="gguf", tokenizer=tokenizer).path
    copied = export(model, tmp_path / "b", format="gguf", tokenizer_from=first).path
    one, other = (
        {k: f.contents() for k, f in GGUFReader(str(p)).fields.items() if k.startswith("tok")}
        for p in (first, copied)
    )
    assert one == other
    assert one["tokenizer.chat_template"] == "{{ messages }}"
    assert one["tokenizer.ggml.pre"] == "gpt-2"
    assert one["tokenizer.ggml.merges"] == ["! !"]
    assert one["tokenizer.ggml.eos_token_id"] == 96
    assert one["tokenizer.ggml.token_type"][95:] == [1, 3]
    assert one["tokenizer.ggml.add_bos_token"] is False


def test_named_templates_go_into_the_gguf_as_gguf_itself_writes_them(tmp_path):
    templates = {"default": "{{ messages }}", "tool_use": "{{ tools }}", "a-b": "{{ 1 }}"}
    tokenizer = byte_level_tokenizer(eos_token="<end>")
    tokenizer.chat_template = templates
    ours = export(child_of(MIXED), tmp_path / "a", format="gguf", tokenizer=tokenizer).path
    writer = GGUFWriter(tmp_path / "reference.gguf", "llama")
    writer.add_chat_template([{"name": n, "template": t} for n, t in templates.items()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    one, other = (
        {k: f.contents() for k, f in GGUFReader(str(p)).fields.items() if ".chat_template" in k}
        for p in (ours, tmp_path / "reference.gguf")
    )
    names = "tokenizer.chat_templates"
    assert sorted(one.pop(names)) == sorted(other.pop(names)) == ["a_b", "tool_use"]
    assert one == other


@pytest.mark.parametrize(
    ("pre", "name"),
    [
        ([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)], "smollm"),
        ([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)], None),
    ],
)
def test_the_way_text_is_cut_is_recognised_or_asked_for(pre, name, tmp_path):
    tokenizer = byte_level_tokenizer(pre_tokenizers.Sequence(pre), eos_token="<end>")
    model = child_of(MIXED)
    if name is None:
        with pytest.raises(ExportError, match=r"Whitespace \+ ByteLevel.*pass tokenizer_from="):
            export(model, tmp_path, format="gguf", tokenizer=tokenizer)
        name = "olmo"
        done = export(model, tmp_path, format="gguf", tokenizer=tokenizer, pre=name)
    else:
        done = export(model, tmp_path, format="gguf", tokenizer=tokenizer)
    assert GGUFReader(str(done.path)).fields["tokenizer.ggml.pre"].contents() == name


def test_llama_3_frequencies_become_factors(tmp_path):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model = child_of(["gqa3+gated64"] * 3, rope_parameters=rope)
    done = export(model, tmp_path, format="gguf")
    stored = {t.name: np.array(t.data) for t in GGUFReader(str(done.path)).tensors}
    plain = 500000.0 ** -(np.arange(0, 8, 2) / 8)
    frequencies = model.model.rotary_emb.inv_freq.numpy()
    assert np.allclose(plain / stored["rope_freqs.weight"], frequencies, rtol=1e-5)
