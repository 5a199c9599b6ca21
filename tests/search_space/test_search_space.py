"""Claims about layouts, counts and spaces."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from search_space import FFN, Attention, Block, Layout, ModelShape, SearchSpace

SHAPE = ModelShape(
    layers=4, hidden=48, heads=6, head_dim=8, kv_heads=3, ffn_width=160, vocab=64, tied=True
)
BLOCKS = st.builds(
    Block,
    st.sampled_from(
        [
            Attention("gqa", 3),
            Attention("gqa", 1),
            Attention("gqa", 2, heads=4),
            Attention("gqa", 3, window=7),
            Attention("gqa", 1, heads=2, window=9),
            Attention("linear"),
            Attention("none"),
        ]
    ),
    st.one_of(
        st.integers(1, 160).map(lambda width: FFN("gated", width)),
        st.sampled_from([FFN("linear"), FFN("none")]),
    ),
)
LAYOUTS = st.lists(BLOCKS, min_size=4, max_size=4).map(lambda b: Layout(SHAPE, tuple(b)))


@pytest.mark.parametrize(
    "sizes",
    [
        {"kv_heads": 3, "tied": True},
        {"kv_heads": 6, "tied": False, "attention_bias": True, "head_dim": 16},
        {"kv_heads": 1, "tied": False, "mlp_bias": True, "layers": 2},
    ],
)
def test_counts_equal_those_of_a_real_transformers_model(sizes):
    shape = ModelShape(**{**SHAPE.to_dict(), **sizes})
    config = LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.ffn_width,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
        attention_bias=shape.attention_bias,
        mlp_bias=shape.mlp_bias,
    )
    model = LlamaForCausalLM(config).eval()
    layout = Layout.parent(shape)
    assert layout.parameters() == sum(p.numel() for p in model.parameters())
    cache = DynamicCache(config=config)
    with torch.no_grad():
        model(torch.arange(10).view(2, 5), past_key_values=cache)
    taken = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert layout.kv_bytes_per_token(4) * 10 == taken


@given(LAYOUTS)
def test_a_layout_survives_its_dict_and_each_label_names_its_block(layout):
    assert Layout.from_dict(layout.to_dict()) == layout
    assert all(Block.from_label(block.label) == block for block in layout.blocks)


def test_a_layout_survives_its_file(tmp_path):
    layout = Layout.parent(SHAPE).replace(2, Block.from_label("none+gated7"))
    layout.save(tmp_path / "layout.json")
    assert Layout.load(tmp_path / "layout.json") == layout
    assert layout.diff(Layout.parent(SHAPE)) == {2: (layout.blocks[2], SHAPE.parent_blocks[0])}
    assert "2 none+gated7" in repr(layout)
    assert "<td>gated7</td>" in layout._repr_html_()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("gqa4+none", r"layer 0: kv_heads=4 does not divide heads=6; allowed: \[1, 2, 3, 6\]"),
        ("gqa6+none", "layer 0: kv_heads=6 is more than the parent's 3"),
        ("gqa2h2+none", r"layer 0: .* whole groups: .* 2 query heads .*: gqa1h2, gqa2h4"),
        ("gqa3h6+none", "heads=6; allowed: fewer than the parent's 6, or left out"),
        ("none+gated161", "layer 0: FFN width 161 is larger than the parent's 160"),
    ],
)
def test_a_search_refuses_an_alternative_that_is_no_part_of_the_parents_block(label, message):
    block = Block.from_label(label)
    with pytest.raises(ValueError, match=message):
        SearchSpace.uniform(SHAPE, attentions=[block.attention], ffns=[block.ffn])


def test_a_layout_may_be_wider_than_the_parent_but_not_incoherent():
    wide = Layout.parent(SHAPE).replace(1, Block.from_label("gqa6+gated480"))
    assert Layout.from_dict(wide.to_dict()) == wide
    assert wide.parameters() - Layout.parent(SHAPE).parameters() == 48 * (2 * 3 * 8 + 3 * 320)
    with pytest.raises(ValueError, match=r"layer 1: kv_heads=4 does not divide heads=6"):
        Layout.parent(SHAPE).replace(1, Block.from_label("gqa4+none"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Attention("gqa"),
        lambda: Attention("none", 1),
        lambda: Attention("linear", window=8),
        lambda: Attention("gqa", 2, heads=3),
        lambda: Attention("gqa", 2, window=0),
        lambda: Attention("mamba"),
        lambda: FFN("gated", 0),
        lambda: FFN("none", 3),
        lambda: Block.from_label("gqa3"),
        lambda: Block.from_dict({"attention": {"kind": "none"}, "ffn": {"kind": "none"}, "x": 1}),
        lambda: ModelShape(**{**SHAPE.to_dict(), "layers": True}),
        lambda: Layout(SHAPE, (SHAPE.parent_blocks[0],)),
    ],
)
def test_a_malformed_value_is_refused(make):
    with pytest.raises(ValueError, match=r"allowed|leave it out|one per layer|no multiple"):
        make()


def test_importing_search_space_imports_neither_torch_nor_puzzle():
    code = "import sys, search_space; print([m for m in ('torch', 'puzzle') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
