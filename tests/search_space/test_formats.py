"""Claims about reading and writing what serving engines read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig

from search_space import FFN, Attention, Block, Layout, ModelShape, published_layout
from search_space.formats import (
    PER_LAYER_DEFAULTS,
    ffn_mult,
    ffn_width,
    from_block_configs,
    from_per_layer_config,
    to_block_configs,
    to_per_layer_config,
)

SHAPE = ModelShape(layers=12, hidden=96, heads=6, head_dim=16, kv_heads=3, ffn_width=512, vocab=64)
PUBLISHED = [
    "llama-3.3-nemotron-super-49b-v1",
    "llama-3.3-nemotron-super-49b-v1.5",
    "llama-3.1-nemotron-51b",
    "llama-3.1-nemotron-ultra-253b-v1",
    "decilm-7b",
    "decilm-6b",
]
ATTENTIONS = st.sampled_from(
    [Attention("gqa", 3), Attention("gqa", 1), Attention("linear"), Attention("none")]
)
OTHERS = st.sampled_from([Attention("gqa", 2, heads=4), Attention("gqa", 3, window=64)])


def layouts(widths, attentions=ATTENTIONS):
    ffns = st.one_of(
        widths.map(lambda width: FFN("gated", width)),
        st.sampled_from([FFN("linear"), FFN("none")]),
    )
    blocks = st.lists(st.builds(Block, attentions, ffns), min_size=12, max_size=12)
    return blocks.map(lambda found: Layout(SHAPE, tuple(found)))


def config_of(layout, **values):
    shape = layout.shape
    return {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        **values,
    }


@given(layouts(st.integers(1, 8).map(lambda n: 256 * n)))
def test_block_configs_give_the_layout_back_through_json(layout):
    written = json.loads(json.dumps(to_block_configs(layout)))
    assert from_block_configs(SHAPE, written) == layout


@given(layouts(st.integers(1, 2000)))
def test_any_width_survives_as_intermediate_size(layout):
    written = to_block_configs(layout, widths="intermediate_size")
    assert from_block_configs(SHAPE, json.loads(json.dumps(written))) == layout
    gated = [
        w["ffn"] for w in written if not (w["ffn"]["no_op"] or w["ffn"]["replace_with_linear"])
    ]
    assert all("ffn_mult" not in ffn for ffn in gated)


@given(layouts(st.integers(1, 2000), ATTENTIONS | OTHERS))
def test_per_layer_config_gives_the_layout_back_through_json(layout):
    written = json.loads(json.dumps(to_per_layer_config(layout)))
    assert from_per_layer_config(SHAPE, written) == layout


# transformers' LlamaConfig refuses query heads that differ between layers.
@given(layouts(st.integers(1, 2000), ATTENTIONS | st.just(Attention("gqa", 3, window=64))))
def test_transformers_reads_a_per_layer_config_and_writes_the_same(layout):
    written = to_per_layer_config(layout)
    config = LlamaConfig(
        **config_of(layout),
        num_key_value_heads=SHAPE.kv_heads,
        intermediate_size=SHAPE.ffn_width,
        **PER_LAYER_DEFAULTS,
        per_layer_config=written,
    )
    assert config.to_dict()["per_layer_config"] == written
    for values, block in zip(config.per_layer_config, layout.blocks, strict=True):
        assert ("attention" in values.skip) == (block.attention.kind == "none")
        assert values.attention_linear == (block.attention.kind == "linear")
        if block.attention.kind == "gqa":
            assert values.num_key_value_heads == block.attention.kv_heads
            assert values.sliding_window == block.attention.window
        if block.ffn.kind == "gated":
            assert values.intermediate_size == block.ffn.width


@given(st.integers(1, 4000), st.sampled_from([96, 576, 4096, 8192, 16384]))
def test_a_multiplier_exists_for_multiples_of_256_and_is_exact(units, hidden):
    mult = ffn_mult(256 * units, hidden)
    assert ffn_width(mult, hidden) == 256 * units
    assert ffn_width(round(mult, 6), hidden) == 256 * units


@given(st.floats(0.001, 50), st.sampled_from([96, 576, 4096, 8192, 16384]))
def test_the_width_of_any_multiplier_is_the_next_multiple_of_256(mult, hidden):
    channels = int(2 * mult * hidden / 3)
    width = ffn_width(mult, hidden)
    assert width % 256 == 0
    assert 0 <= width - channels < 256


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts_survive_both_formats(name):
    layout = Layout.published(name)
    assert from_block_configs(layout.shape, to_block_configs(layout)) == layout
    assert from_per_layer_config(layout.shape, to_per_layer_config(layout)) == layout


@pytest.mark.parametrize("name", PUBLISHED[:4])
def test_the_published_multipliers_read_as_the_published_layout(name):
    found = published_layout(name)
    written = to_block_configs(found.layout)
    for config, block in zip(written, found.layout.blocks, strict=True):
        if block.ffn.width is not None:
            config["ffn"]["ffn_mult"] = found.ffn_mult[block.ffn.width]
    config = config_of(found.layout, model_type="nemotron-nas", block_configs=written)
    # NVIDIA's configs leave these two null; Ultra's widest FFN is not its parent's.
    config |= {"intermediate_size": None, "num_key_value_heads": None}
    assert Layout.from_config(config, ffn_width=found.layout.shape.ffn_width) == found.layout


def test_a_config_without_the_parents_sizes_takes_the_largest():
    layout = Layout.published("llama-3.3-nemotron-super-49b-v1")
    config = config_of(layout, block_configs=to_block_configs(layout))
    assert Layout.from_config(config) == layout


def test_configs_of_deci_llama_and_our_own_children_are_read():
    deci = Layout.published("decilm-7b")
    heads = [block.attention.kv_heads for block in deci.blocks]
    config = config_of(deci, num_key_value_heads_per_layer=heads, intermediate_size=14336)
    assert Layout.from_config(config) == deci

    own = Layout.parent(SHAPE).replace(3, Block.from_label("linear+gated33"))
    sizes = {"num_key_value_heads": 3, "intermediate_size": 512}
    assert Layout.from_config(config_of(own, **sizes)) == Layout.parent(SHAPE)
    overrides = config_of(own, **sizes, per_layer_config=to_per_layer_config(own))
    assert Layout.from_config(overrides) == own
    labels = [block.label for block in own.blocks]
    assert Layout.from_config(config_of(own, **sizes, blocks=labels)) == own


@pytest.mark.parametrize("label", ["gqa2h4", "gqa3w64"])
def test_block_configs_have_no_place_for_heads_and_windows(label):
    layout = Layout.parent(SHAPE).replace(1, Block(Attention.from_label(label), FFN("none")))
    with pytest.raises(ValueError, match=f"layer 1: {label} has fewer query heads or a narrower"):
        to_block_configs(layout)


def test_a_width_without_a_multiplier_is_refused_with_the_nearest():
    layout = Layout.parent(SHAPE).replace(7, Block.from_label("gqa3+gated300"))
    with pytest.raises(ValueError, match=r"layer 7: FFN width 300 .* 256 and 512.*vLLM reads"):
        to_block_configs(layout)
    with pytest.raises(ValueError, match=r"the nearest with one: 256\. "):
        ffn_mult(100, 96)


GQA = {"n_heads_in_group": 2}
FULL = {"ffn_mult": 8.0}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"attention": GQA | {"window_length": 8}, "ffn": FULL}, r"\[3\]: attention: .*window"),
        ({"attention": GQA, "ffn": FULL | {"sparsify": ["x"]}}, r"\[3\]: ffn: .*sparsify"),
        ({"attention": GQA, "ffn": FULL, "mamba": {"state": 1}}, r"\[3\]: block: .*mamba"),
        ({"attention": {"n_heads_in_group": 4}, "ffn": FULL}, r"allowed: \[1, 2, 3, 6\]"),
        ({"attention": {"n_heads_in_group": None}, "ffn": FULL}, "n_heads_in_group=None"),
        ({"attention": GQA, "ffn": {"ffn_mult": float("nan")}}, "finite numbers above 0"),
        ({"attention": GQA, "ffn": {}}, "neither ffn_mult nor intermediate_size"),
        ({"attention": GQA, "ffn": FULL | {"hidden_act": "gelu"}}, "allowed: 'silu'"),
        ({"attention": GQA}, r"\[3\]: the config lacks ffn"),
    ],
)
def test_a_block_config_that_is_no_layout_is_refused_with_its_place(block, message):
    configs = to_block_configs(Layout.parent(SHAPE))
    configs[3] = block
    with pytest.raises(ValueError, match=message):
        from_block_configs(SHAPE, configs)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"12": {"skip": ["attention"]}}, "allowed: each of 0 to 11 once"),
        ({"1": {"skip": ["mlp"]}, "01": {}}, "once"),
        ({"1": {"skip": "mlp"}}, r"per_layer_config\[1\]: skip='mlp'"),
        ({"1": {"skip": ["mixer"]}}, "a list of 'attention' and 'mlp'"),
        ({"1": {"hidden_size": 5}}, "hidden_size"),
    ],
)
def test_a_per_layer_config_that_is_no_layout_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        from_per_layer_config(SHAPE, overrides)


def test_a_config_that_lacks_sizes_is_refused_by_name():
    with pytest.raises(ValueError, match="lacks num_key_value_heads, intermediate_size"):
        Layout.from_config({})
    with pytest.raises(ValueError, match="lacks num_hidden_layers"):
        Layout.from_config({"block_configs": []})
    with pytest.raises(ValueError, match="allowed: 'ffn_mult', 'intermediate_size'"):
        to_block_configs(Layout.parent(SHAPE), widths="width")
