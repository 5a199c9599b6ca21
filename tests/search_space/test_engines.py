"""Claims about the table of engines."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space import (
    ENGINES,
    Block,
    Layout,
    ModelShape,
    UnsupportedLayoutError,
    check_layout,
    engine_table,
    engines_for,
)
from search_space.engine_features import Support
from search_space.engine_tables import family_table
from search_space.engines import engine_named, rewritings, uses

SHAPE = ModelShape(layers=3, hidden=48, heads=6, head_dim=8, kv_heads=3, ffn_width=512, vocab=64)
DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
LABELS = st.tuples(
    st.sampled_from(["gqa3", "gqa1", "gqa2h4", "gqa3w8", "linear", "none"]),
    st.sampled_from(["gated512", "gated300", "linear", "none"]),
).map("+".join)


def layout(*labels):
    return Layout(SHAPE, tuple(map(Block.from_label, labels)))


def test_a_plain_llama_needs_nothing_of_an_engine():
    parent = Layout.parent(SHAPE)
    assert list(uses(parent)) == []
    assert engines_for(parent, rewrite=False) == tuple(ENGINES)


def test_each_place_and_variant_is_told_apart():
    found = layout("none+gated300", "gqa1+none", "linear+linear")
    seen = {(use.feature, use.layer) for use in uses(found, width_multiple=256)}
    assert seen == {
        ("no_attention_first", 0),
        ("ffn_width", 0),
        ("no_ffn", 1),
        ("linear_attention", 2),
        ("linear_ffn", 2),
    }
    seen = {(use.feature, use.layer) for use in uses(layout("gqa3+none", "none+none", "gqa1+none"))}
    assert seen == {("no_ffn", 0), ("no_layer", 1), ("no_ffn_last", 2), ("kv_heads", 2)}
    seen = {
        (use.feature, use.layer) for use in uses(layout("gqa3+linear", *["gqa2h4w8+linear"] * 2))
    }
    assert {("query_heads", 1), ("window", 1), ("kv_heads", 1)} <= seen


def test_only_what_an_engine_lacks_is_rewritten():
    found = layout("none+gated300", "gqa1+none", "linear+linear")
    assert set(rewritings(found, "transformers")) == set()
    assert set(rewritings(found, "mlx")) == {0}
    assert set(rewritings(found, "vllm")) == {0, 2}
    assert set(rewritings(found, "llama.cpp")) == {0, 1, 2}
    found = layout("gqa3+gated512", "gqa2h4+gated512", "gqa3+gated512")
    assert set(rewritings(found, "llama.cpp")) == set()
    assert set(rewritings(found, "vllm")) == {1}


def test_an_error_names_layer_block_engine_and_those_that_can():
    found = layout("gqa3+gated512", "linear+gated512", "gqa3+linear")
    with pytest.raises(UnsupportedLayoutError) as caught:
        check_layout(found, "sglang")
    text = str(caught.value)
    assert "SGLang" in text
    assert "layer 1 (linear+gated512): linear attention" in text
    assert "layer 2 (gqa3+linear): linear FFN" in text
    assert "'serving:sglang'" in text
    assert "vllm" in text.splitlines()[-1]
    assert "sglang" not in text.splitlines()[-1].partition("export")[2]


def test_without_rewriting_a_padded_width_is_refused():
    found = layout("gqa3+gated300", "gqa3+gated512", "gqa3+gated512")
    check_layout(found, "mlx")
    with pytest.raises(UnsupportedLayoutError, match=r"layer 0 .*would need padded with zero"):
        check_layout(found, "mlx", rewrite=False)
    check_layout(found, "vllm", rewrite=False)


@given(st.tuples(LABELS, LABELS, LABELS))
def test_engines_for_are_those_that_check_layout_lets_through(labels):
    found = layout(*labels)
    for rewrite in (True, False):
        passed = []
        for name in ENGINES:
            try:
                check_layout(found, name, rewrite=rewrite)
            except UnsupportedLayoutError:
                continue
            passed.append(name)
        assert tuple(passed) == engines_for(found, rewrite=rewrite)
        assert "transformers" in passed


def test_a_misspelt_engine_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'llama.cpp'"):
        engine_named("llama-cpp")
    with pytest.raises(ValueError, match="needs a note"):
        Support("rewritten")


def test_the_tables_in_the_docs_are_those_in_code():
    text = DOCS.read_text(encoding="utf-8")
    begin, end = "<!-- engine table: begin -->\n", "\n<!-- engine table: end -->"
    assert text.partition(begin)[2].partition(end)[0] == engine_table()
    begin, end = "<!-- family table: begin -->\n", "\n<!-- family table: end -->"
    assert text.partition(begin)[2].partition(end)[0] == family_table()
