"""Whatever is read as a label, a layout or a config gives a value or a ValueError."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from search_space.blocks import FFN, Attention, Block, ModelShape
from search_space.formats import layout_from_json
from search_space.layout import Layout

SHAPE = ModelShape(layers=2, hidden=64, heads=4, head_dim=16, kv_heads=2, ffn_width=128, vocab=100)
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 100,
    "head_dim": 16,
}
EXTRAS = ("block_configs", "per_layer_config", "blocks", "num_key_value_heads_per_layer")
WORDS = ("gqa", "gated", "linear", "none", "+", "0", "7", "1000000000000", "9" * 5000, "\u0663")
SIZES = st.sampled_from([10**12, 10**400, -1, 0, 1, 2, float("nan"), float("inf")])
LEAVES = st.none() | st.booleans() | SIZES | st.floats() | st.text(max_size=5)
KEYS = st.sampled_from(["0", "1000000000000", "attention", "ffn", "kind", "skip"])
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


@pytest.mark.parametrize(
    "read",
    [Attention.from_label, FFN.from_label, Block.from_label],
    ids=["attention", "ffn", "block"],
)
@given(label=st.lists(st.sampled_from(WORDS), max_size=6).map("".join) | st.text(max_size=20))
def test_a_label_is_read_or_refused(read: Callable[[str], Any], label: str) -> None:
    with suppress(ValueError):
        assert read(read(label).label) == read(label)


@settings(max_examples=300)
@given(key=st.sampled_from([*CONFIG, *EXTRAS]), value=JSON)
@example(key="num_attention_heads", value="x")
@example(key="per_layer_config", value=3)
@example(key="block_configs", value=True)
def test_a_config_is_read_or_refused(key: str, value: Any) -> None:
    with suppress(ValueError):
        layout = layout_from_json({**CONFIG, key: value})
        assert len(layout.blocks) == layout.shape.layers


@given(shape=st.just(SHAPE.to_dict()) | JSON, blocks=JSON)
@example(shape={}, blocks=[])
@example(shape=SHAPE.to_dict(), blocks=1)
def test_a_layout_is_read_or_refused(shape: Any, blocks: Any) -> None:
    with suppress(ValueError):
        layout = Layout.from_dict({"shape": shape, "blocks": blocks})
        assert Layout.from_dict(layout.to_dict()) == layout


@pytest.mark.parametrize(
    "changes", [{"num_hidden_layers": 10**12}, {"per_layer_config": {"9" * 12: {}}}]
)
def test_a_number_of_layers_allocates_nothing(changes: dict[str, Any]) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match="layer"):
        layout_from_json({**CONFIG, **changes})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
