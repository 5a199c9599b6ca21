"""Claims about children of other families that are written as Llamas."""

import pytest
import torch

from puzzle.errors import ExportError
from puzzle.models.assembling import assemble
from puzzle.serving.exporting import export
from puzzle.serving.writers.as_llama import as_llama
from puzzle.serving.writers.source import open_source
from search_space import Block, Layout
from search_space.engine_families import FAMILIES_OF
from tests.factories.families import family_child

LABELS = ["none+gated56", "gqa1+none", "linear+gated80", "gqa2+linear", "none+none", "gqa1+gated33"]
DRESSES = {
    "llama-biased": {},
    "mistral": {},
    "qwen2": {},
    "smollm3": {"no_rope_layers": [1] * 6},
    "granite": {},
    "phi3": {},
    "granite-tied": {"tie_word_embeddings": True},
}


def mixed(layout):
    return Layout(layout.shape, tuple(map(Block.from_label, LABELS)))


@pytest.mark.parametrize("name", DRESSES)
@torch.no_grad()
def test_the_llama_that_is_written_computes_what_the_child_computes(name):
    family = name if name == "llama-biased" else name.partition("-")[0]
    model = family_child(family, mixed, **DRESSES[name])
    source = as_llama(open_source(model), "vllm")
    assert source.config.model_type == "puzzle"
    again = assemble(source.config, source.layout, dict(source.tensors), dtype=torch.float32)
    tokens = torch.arange(3, 43)[None]
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "engine", "message"),
    [
        ("mistral-windowed", "llama.cpp", "attends within a window of 12 tokens"),
        ("qwen2-windowed", "mlx", "attends within a window of 12 tokens"),
        ("phi3-partial-windowed", "mlx", "rotates 50% of each head"),
        ("smollm3", "vllm", "has layers without rotary positions"),
        ("gemma3_text", "llama.cpp", "cannot run a child of the family 'gemma3_text'"),
        ("olmo2", "llama.cpp", "Engines that can: transformers, .*plain"),
        ("gemma3_text", "vllm", "serves children of 'gemma3_text' as they are saved"),
        ("qwen3", "mlx", "has neither linear sublayers nor windows"),
        ("qwen3", "tensorrt-llm", r"cannot run .*'qwen3' .*: transformers, .*llama\.cpp"),
        ("qwen3", "sglang", "serves children of 'qwen3' as they are saved"),
    ],
)
def test_what_is_no_llama_is_refused_by_name_with_what_can(name, engine, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(family_child(name, mixed), tmp_path / "out", engine=engine)
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_families_names_engines_of_the_table_of_engines():
    assert {"vllm", "llama.cpp", "mlx", "tensorrt-llm", "sglang"} == set(FAMILIES_OF)
