"""Whatever is read as a label, a layout or a config gives a value or a ValueError."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from search_space.blocks import FFN, Attention, Block
from search_space.drawing import layout_svg
from search_space.formats import layout_from_json, to_block_configs, to_per_layer_config
from search_space.fusion import Fusion
from search_space.layout import Layout
from search_space.options import LayerOptions, layers_named
from search_space.shape import ModelShape
from search_space.space import SearchSpace
from tests.factories.damage import damaged_files, damaged_values

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


WHOLE = ModelShape(layers=3, hidden=256, heads=4, head_dim=64, kv_heads=4, ffn_width=512, vocab=32)
LABELS = ["gqa4+gated512", "linear+none", "gqa2+gated256"]
LAYOUT = Layout(WHOLE, tuple(map(Block.from_label, LABELS)))
SIZED = {
    "num_hidden_layers": 3,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 512,
    "vocab_size": 32,
}
RUNS = {"runs": [{"first": 0, "widths": [4, 5]}, {"first": 3, "widths": [4, 5]}]}
OPTIONS = {"attention": ["gqa"], "kv_heads": [2, 1], "ffn_shares": [0.5, 0.1], "multiple": 32}


def from_options(values: Any) -> Any:
    options = LayerOptions().changed(values)
    return options.attentions(WHOLE), options.ffns(WHOLE)


@pytest.mark.parametrize(
    ("read", "values"),
    [
        (Block.from_dict, LAYOUT.blocks[0].to_dict()),
        (lambda values: Layout.from_dict(values).parameters(), LAYOUT.to_dict()),
        (SearchSpace.from_dict, SearchSpace.uniform(WHOLE, attentions=["none"]).to_dict()),
        (Fusion.from_dict, RUNS),
        (from_options, OPTIONS),
        (layout_from_json, {**SIZED, "block_configs": to_block_configs(LAYOUT)}),
        (layout_from_json, {**SIZED, "per_layer_config": to_per_layer_config(LAYOUT)}),
        (layout_from_json, {**SIZED, "num_key_value_heads_per_layer": [4, 2, 1]}),
        (layout_from_json, {**SIZED, "blocks": LABELS}),
    ],
    ids=["block", "layout", "space", "fusion", "options", "nas", "per layer", "deci", "own"],
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_values_are_read_or_refused(
    read: Callable[[Any], Any], values: Any, data: st.DataObject
) -> None:
    read(values)
    with suppress(ValueError):
        read(data.draw(damaged_values(values)))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=damaged_files(LAYOUT.to_dict()))
def test_a_damaged_file_of_a_layout_is_read_or_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "layout.json"
    file.write_bytes(content)
    try:
        Layout.load(file)
    except ValueError as error:
        assert str(error).startswith(f"{file} is no layout")  # noqa: PT017 - either is right


@pytest.mark.parametrize(
    "key",
    [
        *("0-1000000000000", range(10**12), "9" * 5000, "1-" + "9" * 5000, "2-1", "", "\u0663"),
        *(None, float("inf"), 0.5, True, [0]),
    ],
)
def test_layers_that_do_not_exist_are_refused_without_being_listed(key: Any) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match="allowed"):
        layers_named(WHOLE, key)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("title", ["$\\frac{1$", "a $x$ b", "\x00\x1b", "\ud800", "<script>", "&"])
def test_a_title_is_text_whatever_is_in_it(title: str) -> None:
    ElementTree.fromstring(layout_svg(LAYOUT, title=title))


@pytest.mark.parametrize("width", [0, -1, 1e12, 10**400, float("nan"), float("inf")])
def test_a_width_that_no_page_has_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match=r"width=.*allowed: 100 to 10000 pixels"):
        layout_svg(LAYOUT, width=width)


def test_a_layout_of_too_many_layers_is_shown_without_a_picture() -> None:
    deep = Layout.parent(ModelShape(**{**WHOLE.to_dict(), "layers": 2000}))
    with pytest.raises(ValueError, match="2000 layers; a drawing has room for 1024"):
        layout_svg(deep)
    assert "<svg" not in deep._repr_html_()
    assert "0-1999" in deep._repr_html_()
