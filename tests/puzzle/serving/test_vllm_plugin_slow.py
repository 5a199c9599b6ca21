"""Claims about children of each family in unmodified vLLM, as they were saved, against torch."""

import os

import pytest

from puzzle import serve_check
from search_space import Block, Layout
from tests.factories.families import family_child

# vLLM lives in an environment of its own; benchmarks/serve_vllm.sh makes one and sets this.
VLLM_PYTHON = os.environ.get("PUZZLE_VLLM_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(VLLM_PYTHON is None, reason="benchmarks/serve_vllm.sh runs these"),
]
LABELS = [
    "none+gated64",
    "gqa1+none",
    "linear+gated96",
    "gqa2+linear",
    "none+none",
    "gqa1+gated33",
]
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
FAMILIES = {
    "llama": {},
    "llama-biased": {},
    "mistral": {},
    "mistral-windowed": {},
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
    "smollm3": {},
    "phi3": {},
    "granite": {"attention_multiplier": 0.3},
    "gemma2": {"tie_word_embeddings": True},  # as all are; vLLM's has no head of its own
    "gemma3_text": {},
}


def mixed(layout):
    return Layout(layout.shape, tuple(map(Block.from_label, LABELS)))


@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_serves_the_child_of_each_family_as_it_was_saved(family, tmp_path):
    model = family_child(family, mixed, **SIZES, **FAMILIES[family])
    model.save_pretrained(tmp_path)
    found = serve_check(tmp_path, engine="vllm", python=VLLM_PYTHON, exported=False, speed=False)
    assert found.positions >= 50
    assert found.agreement >= 0.98, str(found)
    assert found.greedy_equal, str(found)
    assert found.max_difference < 5e-3, str(found)
