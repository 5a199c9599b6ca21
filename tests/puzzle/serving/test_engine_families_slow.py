"""Claims about children of each family in real, unmodified engines, against torch."""

import importlib.util

import pytest

from puzzle import serve_check
from search_space import ENGINES, Block, Layout
from tests.factories.children import byte_level_tokenizer
from tests.factories.families import family_child

pytestmark = pytest.mark.slow

MODULES = {"llama.cpp": "xllamacpp", "mlx": "mlx_lm"}
LABELS = {
    "sublayers": "none+gated64 gqa1+none gqa2+gated96 gqa1+gated33 none+none gqa2+none",
    "heads": "gqa1h2+gated64 gqa1+none gqa2+gated96 gqa1h2+none none+none gqa1h2+gated96",
}
# Sizes that every engine takes; head_dim is hidden / heads, as mlx-lm needs it.
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "eos_token_id": 96,
}
CHANGES = {
    "smollm3": {"no_rope_layers": [1] * 6},
    "phi3": {},
    "qwen3": {"tie_word_embeddings": True},
    "granite": {"tie_word_embeddings": True, "attention_multiplier": 0.3},
}
TEXT = "".join(chr(40 + i * 7 % 70) for i in range(60))


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen2", "smollm3", "phi3", "granite", "qwen3"]
)
@pytest.mark.parametrize("engine", MODULES)
def test_an_engine_says_of_each_family_what_torch_says(engine, family, labels, tmp_path):
    if importlib.util.find_spec(MODULES[engine]) is None:
        pytest.skip(f"{engine} is not installed: {ENGINES[engine].install}")
    blocks = tuple(map(Block.from_label, LABELS[labels].split()))
    model = family_child(
        family,
        lambda layout: Layout(layout.shape, blocks),
        **SIZES,
        **CHANGES.get(family, {}),
    )
    model.save_pretrained(tmp_path)
    byte_level_tokenizer(size=97, eos_token="~~").save_pretrained(tmp_path)
    found = serve_check(tmp_path, engine=engine, text=TEXT, prompt="abcdefgh", speed=False)
    assert found.positions >= 50
    assert found.agreement >= 0.98, str(found)
    assert found.greedy_equal, str(found)
    assert found.max_difference < 5e-3, str(found)
