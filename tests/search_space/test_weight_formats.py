"""Claims about formats of weights as choices beside widths."""

from dataclasses import replace

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from search_space import (
    ENGINES,
    FFN,
    WEIGHT_FORMATS,
    Attention,
    Block,
    Layout,
    ModelShape,
    SearchSpace,
)
from search_space.weight_formats import weight_format

SHAPE = ModelShape(layers=2, hidden=64, heads=4, head_dim=16, kv_heads=2, ffn_width=128, vocab=96)


@pytest.mark.parametrize("name", WEIGHT_FORMATS)
def test_a_format_has_the_sizes_that_its_engine_gives_it(name):
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]]
    own = weight_format(name)
    assert (own.block, own.bytes) == (block, size / block)
    assert set(own.engines) <= set(ENGINES)


@pytest.mark.parametrize("label", ["gqa2@q8_0+gated96@q4_0", "gqa1h2w7@q5_1+none", "none+gated32"])
def test_labels_and_json_are_read_back(label):
    block = Block.from_label(label)
    assert block.label == label
    assert Block.from_dict(block.to_dict()) == block
    plain = block.unquantised
    assert "@" not in plain.label
    # What was written before there were formats is what is written now.
    assert plain.to_dict().keys() == {"attention", "ffn"}
    assert "weights" not in str(plain.to_dict())


def test_a_sublayer_without_matrices_of_its_own_has_no_format():
    for make in (lambda: Attention("none", weights="q8_0"), lambda: FFN("linear", weights="q4_0")):
        with pytest.raises(ValueError, match="leave it out"):
            make()
    with pytest.raises(ValueError, match=r"'q4_k'; allowed: q8_0"):
        FFN("gated", 64, weights="q4_k")
    with pytest.raises(ValueError, match=r"rows of 40 weights.*multiples of 32"):
        Layout.parent(SHAPE).replace(0, Block.from_label("gqa2+gated40@q4_0"))


def test_formats_multiply_the_choices_whose_rows_fit():
    space = SearchSpace.from_options(
        SHAPE, kv_heads=[1], attention="gqa", ffn=["gated", "none"], ffn_shares=[0.75, 0.6],
        multiple=1, weights=["q8_0", "q4_0"], keep=[1],
    )  # fmt: skip
    assert [a.label for a in space.attentions[0]] == [
        "gqa2", "gqa2@q8_0", "gqa2@q4_0", "gqa1", "gqa1@q8_0", "gqa1@q4_0",
    ]  # fmt: skip
    assert [f.label for f in space.ffns[0]] == [
        "gated128", "gated128@q8_0", "gated128@q4_0", "gated96", "gated96@q8_0", "gated96@q4_0",
        "gated77", "none",
    ]  # fmt: skip
    assert [block.label for block in space.blocks(1)] == ["gqa2+gated128"]
    assert SearchSpace.from_dict(space.to_dict()) == space


def test_bytes_are_those_of_each_sublayers_format():
    usual = Layout.parent(SHAPE)
    assert usual.weight_bytes(2) == 2 * usual.parameters()
    ffn = 64 + 3 * 64 * 128
    quantised = usual.replace(1, Block.from_label("gqa2+gated128@q4_0"))
    assert usual.weight_bytes(2) - quantised.weight_bytes(2) == ffn * (2 - 4.5 / 8)
    assert quantised.parameters() == usual.parameters()
    blocks = [replace(block, ffn=FFN("gated", 128, weights="q4_0")) for block in usual.blocks]
    assert Layout(SHAPE, blocks).unquantised == usual


def test_engines_without_the_format_get_its_values():
    layout = Layout.parent(SHAPE).replace(1, Block.from_label("gqa2+gated128@q4_0"))
    hows = {name: engine.support["weights"].how for name, engine in ENGINES.items()}
    assert {name for name, how in hows.items() if how == "native"} == {"llama.cpp"}
    assert hows["vllm"] == "rewritten"
    assert layout.unquantised.blocks == Layout.parent(SHAPE).blocks
