"""Claims about the published layouts."""

import pytest

from search_space import Layout, published_layout, published_names
from search_space.formats import ffn_mult, ffn_width

TOTALS = {
    "llama-3.3-nemotron-super-49b-v1": (49_867_145_216, 100_352),
    "llama-3.3-nemotron-super-49b-v1.5": (49_867_145_216, 100_352),
    "llama-3.1-nemotron-51b": (51_501_015_040, 94_976),
    "llama-3.1-nemotron-ultra-253b-v1": (253_401_268_224, 131_072),
    "decilm-7b": (7_043_551_232, 17_152),
    "decilm-6b": (5_717_102_592, 12_800),
}


def test_the_names_are_those_of_the_issue():
    assert set(published_names()) == set(TOTALS)


@pytest.mark.parametrize("name", TOTALS)
def test_parameters_and_cache_equal_the_published_totals(name):
    layout, found = Layout.published(name), published_layout(name)
    assert (layout.parameters(), layout.kv_bytes_per_token(1)) == TOTALS[name]
    assert (found.published_parameters, found.published_kv_elements) == TOTALS[name]
    assert found.name == name
    assert found.sources


@pytest.mark.parametrize("name", TOTALS)
def test_the_multipliers_of_the_configs_give_the_widths(name):
    found = published_layout(name)
    widths = {block.ffn.width for block in found.layout.blocks} - {None}
    hidden = found.layout.shape.hidden
    assert found.ffn_mult.keys() in (set(), widths)
    for width in found.ffn_mult:
        assert ffn_width(found.ffn_mult[width], hidden) == width
        assert ffn_width(ffn_mult(width, hidden), hidden) == width


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", "llama-3.3-nemotron-super-49b-v1"),
        ("Llama-3_3-Nemotron-Super-49B-v1_5", "llama-3.3-nemotron-super-49b-v1.5"),
        ("nvidia/Llama-3_1-Nemotron-51B-Instruct", "llama-3.1-nemotron-51b"),
        ("LLAMA 3.1 nemotron ultra 253b v1", "llama-3.1-nemotron-ultra-253b-v1"),
        ("Deci/DeciLM-7B-instruct", "decilm-7b"),
        ("Deci/DeciLM-6b", "decilm-6b"),
    ],
)
def test_other_spellings_of_a_name_are_understood(spelling, name):
    assert Layout.published(spelling) == Layout.published(name)


def test_a_wrong_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'llama-3\.3-nemotron-super-49b-v1'\?"):
        Layout.published("llama-3.3-nemotron-super-49b")
    with pytest.raises(ValueError, match=r"allowed: .*'decilm-7b'"):
        Layout.published("")


def test_the_counts_of_each_kind_of_layer_are_those_of_the_papers():
    kinds = {
        name: [block.attention.kind for block in Layout.published(name).blocks] for name in TOTALS
    }
    assert kinds["llama-3.3-nemotron-super-49b-v1"].count("none") == 31
    assert kinds["llama-3.1-nemotron-51b"].count("linear") == 18
    assert kinds["llama-3.1-nemotron-51b"].count("none") == 8
    assert kinds["llama-3.1-nemotron-ultra-253b-v1"].count("gqa") == 64
    assert set(kinds["decilm-7b"]) == {"gqa"}


def test_super_v1_5_says_what_of_it_is_inferred():
    found = published_layout("llama-3.3-nemotron-super-49b-v1.5")
    assert found.status == "partial"
    assert "layers 3 to 79" in found.inferred[0]
    assert published_layout("llama-3.3-nemotron-super-49b-v1").inferred == ()


def test_ultra_unfused_has_the_parents_layers_and_fuses_back_to_the_published_blocks():
    ultra = published_layout("llama-3.1-nemotron-ultra-253b-v1")
    before, fusion = ultra.search_result(), ultra.fusion()
    assert before.shape.layers == 126
    assert [(run.first, run.last) for run in fusion.runs] == [
        (66, 73),
        (74, 85),
        (86, 100),
        (101, 114),
    ]
    assert [run.width for run in fusion.runs] == [399_360, 425_984, 343_040, 301_056]
    assert max(run.widths[0] for run in fusion.runs) <= ultra.layout.shape.ffn_width
    # 49 FFNs keep 4 norms.
    norms = (49 - 4) * ultra.layout.shape.hidden
    assert before.parameters() == ultra.published_parameters + norms
    assert before.kv_bytes_per_token() == ultra.layout.kv_bytes_per_token()
    assert len(ultra.identity_layers) == 81


def test_a_layout_that_was_not_fused_is_its_own_search_result():
    found = published_layout("decilm-7b")
    assert found.search_result() == found.layout
    assert found.fusion().runs == ()
