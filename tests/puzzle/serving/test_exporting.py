"""Claims about exported children, on tiny random models and without an engine."""

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file

from puzzle.errors import ExportError
from puzzle.models.child import PuzzleForCausalLM
from puzzle.serving.exporting import export
from search_space import Layout
from tests.factories.children import MIXED, byte_level_tokenizer, child_of, layout_of

ALIKE = ["gqa3+gated256"] * 3


@pytest.mark.parametrize(
    ("labels", "changes", "options", "message"),
    [
        (MIXED, {}, {"engine": "sglang"}, r"layer 1 \(linear\+linear\): linear attention"),
        (MIXED, {"head_dim": 16}, {"engine": "mlx"}, "heads of hidden / heads = 48/6"),
        (ALIKE, {"attention_bias": True}, {"engine": "tensorrt-llm"}, "attention has biases"),
        (ALIKE, {"mlp_bias": True}, {"engine": "sglang"}, "FFN has biases, and sglang's Llama"),
        (MIXED, {}, {"engine": "vlm"}, "did you mean 'vllm'"),
        (MIXED, {}, {"engine": "transformers"}, "as it is saved: save"),
        (MIXED, {}, {"engine": "vllm", "format": "gguf"}, "vllm reads nemotron-nas, not gguf"),
        (MIXED, {}, {"format": "onnx"}, r"format='onnx'; allowed: \['gguf'"),
        (MIXED, {}, {}, "name an engine"),
        (MIXED, {}, {"format": "gguf", "quantisation": "q4_k"}, "'q4_k'; allowed: f32, f16"),
        (MIXED, {}, {"format": "gguf", "dtype": "float16"}, "give quantisation"),
        (MIXED, {}, {"engine": "vllm", "quantisation": "q8_0"}, "nemotron-nas takes dtype"),
        (MIXED, {}, {"engine": "vllm", "dtype": "int8"}, r"dtype='int8'; allowed: \['bfloat16'"),
        (MIXED, {}, {"format": "gguf", "tokenizer_from": "no.gguf"}, "is not a file"),
        (
            MIXED,
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            {"format": "gguf"},
            "rope_type='dynamic' cannot be exported",
        ),
    ],
)
def test_what_cannot_be_exported_is_said_before_anything_is_written(
    labels, changes, options, message, tmp_path
):
    with pytest.raises(ExportError, match=message):
        export(child_of(labels, **changes), tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


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


def test_a_search_result_is_exported_from_memory_or_from_where_it_was_saved(tmp_path):
    @dataclass
    class Result:
        """The part of a SearchResult that export reads."""

        layout: Layout
        library: object = None
        saved: object = tmp_path / "child"
        tokenizer: object = None

        def child(self):
            raise AssertionError("not needed")

    child_of(MIXED).save_pretrained(tmp_path / "child")
    done = export(Result(layout_of(MIXED)), tmp_path / "out", engine="vllm")
    assert done.layout.shape.layers == 4
    with pytest.raises(ExportError, match="linear attention"):
        export(Result(layout_of(MIXED), saved=None), tmp_path / "other", engine="sglang")


@pytest.mark.parametrize("engine", ["vllm", "llama.cpp"])
def test_a_child_is_not_exported_over_itself_or_over_files_of_others(engine, tmp_path):
    child_of(MIXED).save_pretrained(tmp_path / "child")
    (tmp_path / "link").symlink_to("child")
    before = {path: path.read_bytes() for path in (tmp_path / "child").iterdir()}
    model = PuzzleForCausalLM.from_pretrained(tmp_path / "child")
    for child in (tmp_path / "child", str(tmp_path / "link"), model):
        with pytest.raises(ExportError, match="is read from and cannot be written to"):
            export(child, tmp_path / "child", engine=engine)
    (tmp_path / "other").mkdir()
    mine = tmp_path / "other" / ("config.json" if engine == "vllm" else "model-q8_0.gguf")
    mine.write_text("mine")
    options = {} if engine == "vllm" else {"quantisation": "q8_0"}
    with pytest.raises(ExportError, match=f"puzzle did not write.*{mine.name}"):
        export(tmp_path / "child", tmp_path / "other", engine=engine, **options)
    assert {path: path.read_bytes() for path in (tmp_path / "child").iterdir()} == before
    assert [path.read_text() for path in (tmp_path / "other").iterdir()] == ["mine"]


def test_the_name_of_a_gguf_is_that_file_and_not_a_directory(tmp_path):
    written = export(child_of(MIXED), tmp_path / "a" / "x.gguf", format="gguf", quantisation="f16")
    assert written.path == tmp_path / "a" / "x.gguf"
    assert written.path.read_bytes()[:4] == b"GGUF"
    assert list((tmp_path / "a").iterdir()) == [written.path]
    again = export(child_of(MIXED), tmp_path / "b", format="gguf", quantisation="f16")
    assert again.path.read_bytes() == written.path.read_bytes()
    with pytest.raises(ExportError, match="is the name of a GGUF file; nemotron-nas is a dir"):
        export(child_of(MIXED), tmp_path / "y.gguf", engine="vllm")
    with pytest.raises(ExportError, match="is read from"):
        export(
            child_of(MIXED), written.path, format="gguf", tokenizer_from=tmp_path / "a" / "x.gguf"
        )
