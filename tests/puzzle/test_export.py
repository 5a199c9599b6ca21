"""Claims about exported children, on tiny random models and without an engine."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from puzzle.errors import ExportError
from puzzle.models.assembling import assemble
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.child_config import config_from_layout
from puzzle.models.generation import inherit_generation_config
from puzzle.models.llama import LLAMA
from puzzle.models.shards import Shards
from puzzle.serving.exporting import export
from puzzle.serving.files import save_tokenizer
from puzzle.serving.writers.lowering import each_layer, lower, needs_ffn_biases
from puzzle.serving.writers.self_contained import add_modelling_file
from puzzle.serving.writers.shard_writer import ShardWriter
from search_space import ENGINES, Block, Layout, UnsupportedLayoutError, check_layout
from search_space.engines import uses
from search_space.formats import from_per_layer_config, layout_from_json

CONFIG = LlamaConfig(
    num_hidden_layers=3,
    hidden_size=48,
    num_attention_heads=6,
    num_key_value_heads=3,
    intermediate_size=64,
    vocab_size=97,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    max_position_embeddings=128,
)
SHAPE = LLAMA.shape(CONFIG)
LABELS = st.tuples(
    st.sampled_from(["gqa3", "gqa1", "linear", "none"]),
    st.sampled_from(["gated64", "gated9", "linear", "none"]),
).map("+".join)
MIXED = ["none+gated9", "linear+linear", "gqa1+none"]


def layout_of(labels, shape=SHAPE):
    return Layout(shape, tuple(map(Block.from_label, labels)))


def child_of(labels, **changes):
    config = LlamaConfig(**{**CONFIG.to_dict(), **changes})
    torch.manual_seed(0)
    model = PuzzleForCausalLM(config_from_layout(config, layout_of(labels, LLAMA.shape(config))))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def run_written(model, engine, multiple=1):
    """Returns the logits of a torch model made of what would be written for an engine."""
    layout = layout_of(model.config.blocks, LLAMA.shape(model.config))
    written, layers = lower(layout, engine, multiple=multiple)
    biases = layout.shape.mlp_bias or needs_ffn_biases(layers)
    state = model.state_dict()
    tensors = {name: state[name] for name in state if not name.startswith("model.layers.")}
    for number, _, own in each_layer(layout, layers, state, ffn_biases=biases):
        tensors |= {f"model.layers.{number}.{name}": tensor for name, tensor in own.items()}
    parent = LlamaConfig(**{**CONFIG.to_dict(), **_biases(model.config), "mlp_bias": biases})
    written = Layout(replace(written.shape, mlp_bias=biases), written.blocks)
    again = assemble(parent, written, tensors, dtype=torch.float32)
    return written, again


def _biases(config):
    return {name: getattr(config, name) for name in ("attention_bias", "mlp_bias")}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.tuples(LABELS, LABELS, LABELS),
    st.sampled_from(sorted(ENGINES)),
    st.booleans(),
    st.sampled_from([1, 32]),
)
@torch.no_grad()
def test_what_is_written_for_an_engine_computes_the_childs_logits(labels, engine, bias, multiple):
    try:
        check_layout(layout_of(labels), engine)
    except UnsupportedLayoutError:
        return
    biased = bias and engine in ("vllm", "llama.cpp", "mlx")
    model = child_of(labels, attention_bias=biased, mlp_bias=biased)
    written, again = run_written(model, engine, multiple)
    tokens = torch.arange(2, 14)[None]
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-4)
    # Nothing is left that the engine would still have to have rewritten.
    support = ENGINES[engine].support
    left = {use.feature for use in uses(written) if support[use.feature].how != "native"}
    assert left <= {"ffn_width"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_linear_map_as_a_gated_ffn_is_itself_in_every_number_format(dtype):
    model = child_of(["gqa3+linear", "gqa3+gated64", "gqa3+gated64"]).to(dtype)
    layout = layout_of(model.config.blocks)
    _, layers = lower(layout, "vllm")
    _, _, tensors = next(each_layer(layout, layers, model.state_dict(), ffn_biases=True))
    x = torch.randn(7, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    parts = {name.split(".", 1)[1]: t for name, t in tensors.items() if name.startswith("mlp.")}
    gate, up = (
        torch.nn.functional.linear(x, parts[f"{n}_proj.weight"], parts[f"{n}_proj.bias"])
        for n in ("gate", "up")
    )
    y = torch.nn.functional.linear(torch.nn.functional.silu(gate) * up, parts["down_proj.weight"])
    expected = model.model.layers[0].mlp.linear_proj(x)
    torch.testing.assert_close(y, expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_sglang_gets_one_kv_head_count():
    written, _ = run_written(child_of(["gqa3+gated64", "gqa1+gated64", "none+none"]), "sglang")
    assert {block.attention.kv_heads for block in written.blocks} == {3, None}


@pytest.mark.parametrize("engine", ["vllm", "mlx", "tensorrt-llm"])
def test_the_config_says_the_layout_in_both_notations(engine, tmp_path):
    done = export(child_of(MIXED), tmp_path / "out", engine=engine)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert layout_from_json(config).blocks == done.layout.blocks
    shape = replace(done.layout.shape, mlp_bias=config["mlp_bias"])
    assert from_per_layer_config(shape, config["per_layer_config"]).blocks == done.layout.blocks
    assert Layout.load(tmp_path / "out" / "layout.json") == layout_of(MIXED)
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert 0 in done.rewritten


def test_engines_other_than_vllm_get_widths_as_multipliers_and_their_own_names(tmp_path):
    export(child_of(MIXED), tmp_path / "mlx", engine="mlx")
    config = json.loads((tmp_path / "mlx" / "config.json").read_text())
    assert config["block_configs"][0]["ffn"]["ffn_mult"] == 3 * 256 / (2 * 48)
    names = load_file(tmp_path / "mlx" / "model.safetensors")
    assert "model.layers.1.self_attn.linear.weight" in names
    assert "model.layers.1.mlp.linear.weight" in names
    assert names["model.layers.0.mlp.down_proj.weight"].shape == (48, 256)
    assert not any("layers.2.mlp" in name or "layers.2.post" in name for name in names)
    assert "lm_head.weight" not in names
    export(child_of(MIXED), tmp_path / "trt", engine="tensorrt-llm")
    names = load_file(tmp_path / "trt" / "model.safetensors")
    assert "model.layers.1.self_attn.linear_attn.weight" in names
    assert "model.layers.1.mlp.linear_mlp.weight" in names


READ = (
    "import sys, copy, pickle; {register}"
    "from transformers import AutoConfig as A;"
    "c = A.from_pretrained(sys.argv[1], trust_remote_code={trust});"
    "c = pickle.loads(pickle.dumps(copy.deepcopy(c))); b = c.block_configs;"
    "print(type(c).__name__, b[0].attention.no_op, b[0].attention.n_heads_in_group,"
    " hasattr(b[0].ffn, 'ffn_mult'), b[0].ffn.intermediate_size, c.num_key_value_heads);"
    "assert 'puzzle' not in sys.modules"
)


@pytest.mark.parametrize("plugin", [True, False])
def test_the_config_is_read_with_our_plugin_or_with_its_own_file(plugin, tmp_path):
    export(child_of(MIXED), tmp_path / "out", engine="vllm")
    register = "import puzzle_vllm; puzzle_vllm.register();" if plugin else ""
    code = READ.format(register=register, trust=not plugin)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    assert done.stdout.split() == ["DeciLMConfig", "False", "6", "False", "9", "3"]


def test_large_checkpoints_are_sharded_and_read_back(tmp_path):
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(5)}
    writer = ShardWriter(tmp_path, shard_bytes=80)
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    writer.close()
    assert len(list(tmp_path.glob("model-*-of-00003.safetensors"))) == 3
    found = Shards(tmp_path)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


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


def byte_level_tokenizer(pre=None, size=97, **special):
    vocab = {chr(33 + i): i for i in range(size - 2)} | {"!!": size - 2}
    backend = Tokenizer(models.BPE(vocab, merges=[("!", "!")]))
    backend.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = "{{ messages }}"
    return tokenizer


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


@pytest.mark.parametrize(
    ("labels", "changes", "options", "message"),
    [
        (MIXED, {}, {"engine": "sglang"}, r"layer 1 \(linear\+linear\): linear attention"),
        (MIXED, {"head_dim": 16}, {"engine": "mlx"}, "heads of hidden / heads = 48/6"),
        (MIXED, {}, {"engine": "vlm"}, "did you mean 'vllm'"),
        (MIXED, {}, {"engine": "transformers"}, "use save_pretrained"),
        (MIXED, {}, {"engine": "vllm", "format": "gguf"}, "vllm reads nemotron-nas, not gguf"),
        (MIXED, {}, {"format": "onnx"}, r"format='onnx'; allowed: \['gguf'"),
        (MIXED, {}, {}, "name an engine"),
        (MIXED, {}, {"format": "gguf", "quantisation": "q4_k"}, "'q4_k'; allowed: f32, f16"),
        (MIXED, {}, {"format": "gguf", "dtype": "float16"}, "give quantisation"),
        (MIXED, {}, {"engine": "vllm", "quantisation": "q8_0"}, "nemotron-nas takes dtype"),
        (MIXED, {}, {"engine": "vllm", "dtype": "int8"}, r"dtype='int8'; allowed: \['bfloat16'"),
        (MIXED, {}, {"format": "gguf", "tokenizer_from": "no.gguf"}, "is no file"),
        (
            MIXED,
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            {"format": "gguf"},
            "rope_type='dynamic' has no exporter",
        ),
    ],
)
def test_what_cannot_be_exported_is_said_before_anything_is_written(
    labels, changes, options, message, tmp_path
):
    with pytest.raises(ExportError, match=message):
        export(child_of(labels, **changes), tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_no_engine_has_a_place_for_are_named():
    model = child_of(MIXED)
    state = {**model.state_dict(), "model.layers.2.self_attn.q_norm.weight": torch.ones(8)}
    _, layers = lower(layout_of(MIXED), "vllm")
    with pytest.raises(ExportError, match=r"layer 2 \(gqa1\+none\) has tensors .*q_norm"):
        list(each_layer(layout_of(MIXED), layers, state, ffn_biases=True))


def test_what_is_no_child_is_refused(tmp_path):
    with pytest.raises(ExportError, match="allowed: a child, a search result, or the directory"):
        export(tmp_path / "nothing", tmp_path / "out", engine="vllm")


def test_files_of_the_tokenizer_are_copied_byte_by_byte(tmp_path):
    child_of(MIXED).save_pretrained(tmp_path / "child")
    byte_level_tokenizer().save_pretrained(tmp_path / "child")
    template = tmp_path / "child" / "chat_template.jinja"
    template.write_bytes(b"{{ messages }}\r\n{#  odd  spacing #}\n")
    (tmp_path / "child" / "LICENSE").write_text("of the parent")
    export(tmp_path / "child", tmp_path / "out", engine="vllm", dtype="bfloat16")
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "LICENSE"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "child" / name).read_bytes()
    assert (tmp_path / "out" / "generation_config.json").is_file()
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


WITHOUT_PUZZLE = """
import sys, torch
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("puzzle", "puzzle_vllm", "search_space", "solvers"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from transformers import AutoModelForCausalLM
from safetensors.torch import save_file
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
tokens = torch.arange(2, 14)[None]
logits = model(tokens).logits.detach()
text = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=6,
                      do_sample=False, pad_token_id=0)
save_file({"logits": logits, "text": text}, sys.argv[2])
"""


@torch.no_grad()
def test_a_self_contained_child_loads_without_puzzle_and_says_the_same(tmp_path):
    labels = ["none+gated9", "linear+linear", "gqa1+none"]
    model = child_of(labels)
    model.save_pretrained(tmp_path / "child")
    add_modelling_file(tmp_path / "child")
    script = tmp_path / "load.py"
    script.write_text(WITHOUT_PUZZLE)
    command = [sys.executable, "-P", str(script), str(tmp_path / "child"), str(tmp_path / "out")]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    found, tokens = load_file(tmp_path / "out"), torch.arange(2, 14)[None]
    assert torch.equal(found["logits"], model(tokens).logits)
    text = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
    )
    assert torch.equal(found["text"], text)
    # With puzzle its own classes are used, and nothing is asked.
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "child")
    assert type(again) is PuzzleForCausalLM


def test_only_a_child_gets_a_modelling_file(tmp_path):
    CONFIG.save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=r"holds no child .model_type 'llama'"):
        add_modelling_file(tmp_path)


def test_a_tokenizer_is_copied_as_it_is_stored_unless_it_was_changed(tmp_path):
    byte_level_tokenizer(eos_token="<end>").save_pretrained(tmp_path / "parent")
    template = tmp_path / "parent" / "chat_template.jinja"
    template.write_bytes(b"{{ messages }}{#  odd\r\nspacing #}")
    file = tmp_path / "parent" / "tokenizer.json"
    file.write_bytes(b"\n" + file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "parent")
    tokenizer(["a", "abc"], padding=False, truncation=True, max_length=2)
    for name in ("same", "changed"):
        (tmp_path / name).mkdir()
    save_tokenizer(tokenizer, tmp_path / "same")
    for stored in (template, file):
        assert (tmp_path / "same" / stored.name).read_bytes() == stored.read_bytes()
    tokenizer.chat_template = "{{ other }}"
    save_tokenizer(tokenizer, tmp_path / "changed")
    assert (tmp_path / "changed" / "chat_template.jinja").read_text() == "{{ other }}"


def test_a_child_ends_its_text_where_the_parent_does(tmp_path):
    stored = GenerationConfig(eos_token_id=[2, 7], temperature=0.6, do_sample=True)
    stored.save_pretrained(tmp_path)
    for labels in (MIXED, ["none+gated64"] * 3):
        model = child_of(labels)
        inherit_generation_config(model, tmp_path)
        assert model.generation_config.eos_token_id == [2, 7]
        assert model.generation_config.temperature == 0.6
        assert (model.generation_config.use_cache is False) is (labels is not MIXED)


def test_a_search_result_is_exported_from_memory_or_from_where_it_was_saved(tmp_path):
    @dataclass
    class Result:
        """The part of a SearchResult that export reads."""

        layout: Layout
        library: object = None
        saved: object = tmp_path / "child"

        def child(self):
            raise AssertionError("not needed")

    child_of(MIXED).save_pretrained(tmp_path / "child")
    done = export(Result(layout_of(MIXED)), tmp_path / "out", engine="vllm")
    assert done.layout.shape.layers == 4
    with pytest.raises(ExportError, match="linear attention"):
        export(Result(layout_of(MIXED), saved=None), tmp_path / "other", engine="sglang")
