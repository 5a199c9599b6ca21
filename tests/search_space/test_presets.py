"""Claims about options, exceptions and named search spaces."""

import pytest

from search_space import (
    PRESETS,
    Block,
    LayerOptions,
    Layout,
    ModelShape,
    SearchSpace,
    check_layout,
    published_layout,
)
from search_space.engine_tables import WITH_VARIANTS
from search_space.plain_layouts import EMPTY, odd_layers

SHAPE = ModelShape(
    layers=4, hidden=48, heads=6, head_dim=8, kv_heads=3, ffn_width=160, vocab=64, tied=True
)
SMOLLM2 = ModelShape(
    layers=30, hidden=576, heads=9, head_dim=64, kv_heads=3, ffn_width=1536, vocab=49152, tied=True
)
LLAMA_70B = published_layout("llama-3.3-nemotron-super-49b-v1").layout.shape


def labels(space, layer):
    return [a.label for a in space.attentions[layer]], [f.label for f in space.ffns[layer]]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_the_parent_and_kept_layers_have_nothing_else(name):
    space = SearchSpace.preset(SHAPE, name, keep=[0, -1])
    assert space.contains(Layout.parent(SHAPE))
    assert [len(space.blocks(i)) for i in (0, 3)] == [1, 1]
    assert space.blocks(1)[0] == SHAPE.parent_blocks[0]
    assert SearchSpace.from_dict(space.to_dict()) == space


def test_the_default_has_every_divisor_of_the_kv_heads_and_the_stated_shares():
    shape = ModelShape(
        layers=1, hidden=64, heads=24, head_dim=8, kv_heads=12, ffn_width=32_000, vocab=64
    )
    attentions, ffns = labels(SearchSpace.preset(shape, "default"), 0)
    assert attentions == ["gqa12", "gqa6", "gqa4", "gqa3", "gqa2", "gqa1", "linear", "none"]
    shares = (100, 87, 75, 62.5, 50, 37.5, 25, 20, 10)
    assert ffns == [*(f"gated{round(320 * s)}" for s in shares), "linear", "none"]


def test_the_small_space_of_the_demo_has_its_twelve_blocks():
    space = SearchSpace.preset(SMOLLM2, "small")
    expected = ["gqa3", "gqa1", "none"], ["gated1536", "gated1152", "gated768", "none"]
    assert all(labels(space, layer) == expected for layer in range(30))


def test_the_papers_space_has_54_blocks_and_holds_nemotron_51b():
    space = SearchSpace.preset(LLAMA_70B, "puzzle-paper")
    assert {len(space.blocks(layer)) for layer in range(80)} == {54}
    assert space.contains(published_layout("llama-3.1-nemotron-51b").layout)


def test_the_super_space_holds_the_published_super_layout():
    space = SearchSpace.preset(LLAMA_70B, "nemotron-super")
    assert space.contains(published_layout("llama-3.3-nemotron-super-49b-v1").layout)
    assert labels(space, 0)[0] == ["gqa8", "none"]


@pytest.mark.parametrize("name", WITH_VARIANTS)
@pytest.mark.parametrize("shape", [SMOLLM2, LLAMA_70B], ids=["SmolLM2", "70B"])
def test_an_engine_runs_every_layout_of_its_space(name, shape):
    space = SearchSpace.preset(shape, f"serving:{name}")
    parent = Layout.parent(shape)
    for layer in (0, 1, shape.layers - 1):
        for block in space.blocks(layer):
            check_layout(parent.replace(layer, block), name)


@pytest.mark.parametrize("name", ["depth", "uniform", "plain"])
def test_what_plain_spaces_contain_is_plain(name):
    space, parent = SearchSpace.preset(SHAPE, name), Layout.parent(SHAPE)
    for block in space.blocks(0):
        for other in space.blocks(1):
            layout = Layout(SHAPE, (block, other, block, other))
            kept = any(each != EMPTY for each in layout.blocks)
            assert space.contains(layout) == (kept and not odd_layers(layout)) or not kept
    assert not space.contains(parent.replace(1, Block.from_label("none+gated160")))
    assert (name == "depth") == (len(space.blocks(0)) == 2)


def test_spaces_for_vllm_and_llama_cpp_leave_out_what_costs_more_than_it_saves():
    for name in ("vllm", "llama.cpp"):
        space = SearchSpace.preset(SMOLLM2, f"serving:{name}")
        assert "none" not in labels(space, 0)[0]
        assert "none" in labels(space, 1)[0]
        assert "linear" not in labels(space, 1)[1]


def test_the_peers_space_is_said_in_one_call():
    space = SearchSpace.from_options(
        SMOLLM2, attention="none", ffn=["gated", "none"], ffn_shares=[0.5, 0.25]
    )
    assert labels(space, 7) == (["gqa3", "none"], ["gated1536", "gated768", "gated384", "none"])


def test_exceptions_change_some_layers_and_keep_wins_over_them():
    space = SearchSpace.from_options(
        SHAPE,
        attention="none",
        ffn=(),
        exceptions={
            "1-2": {"attention": ("linear", "none")},
            2: LayerOptions(attention="gqa", ffn="none"),
            range(3, 4): {"ffn": "linear"},
        },
        keep=["3-3"],
    )
    assert [labels(space, layer) for layer in range(4)] == [
        (["gqa3", "none"], ["gated160"]),
        (["gqa3", "linear", "none"], ["gated160"]),
        (["gqa3", "gqa1"], ["gated160", "none"]),
        (["gqa3"], ["gated160"]),
    ]


def test_a_users_exception_wins_over_the_presets_own():
    space = SearchSpace.preset(SMOLLM2, "serving:vllm", exceptions={0: {"attention": "none"}})
    assert labels(space, 0)[0] == ["gqa3", "none"]


def test_options_given_to_a_preset_hold_for_all_its_layers():
    space = SearchSpace.preset(SMOLLM2, "serving:llama.cpp", multiple=32, ffn_shares=[0.3])
    assert {labels(space, layer)[1][1] for layer in range(30)} == {"gated448"}


@pytest.mark.parametrize("multiple", [1, 64, 256])
def test_widths_are_multiples_below_the_parents(multiple):
    space = SearchSpace.preset(SMOLLM2, "ffn", multiple=multiple)
    widths = [ffn.width for ffn in space.ffns[0] if ffn.width is not None]
    assert all(width % multiple == 0 for width in widths)
    assert len(set(widths)) == len(widths)
    assert max(widths) == 1536


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SearchSpace.preset(SHAPE, "smal"), "did you mean 'small'"),
        (lambda: SearchSpace.preset(SHAPE, "serving:vlm"), "did you mean 'serving:vllm'"),
        (lambda: SearchSpace.preset(SHAPE, "small", keep=[4]), "name layer 4; allowed: -4 to 3"),
        (lambda: SearchSpace.from_options(SHAPE, exceptions={"2-": {}}), "'2-'; allowed: a layer"),
        (lambda: SearchSpace.from_options(SHAPE, exceptions={"3-2": {}}), "name no layer"),
        (
            lambda: SearchSpace.from_options(SHAPE, exceptions={1: {"x": 1}}),
            r"unknown keys \['x'\]",
        ),
        (lambda: SearchSpace.from_options(SHAPE, attention="mamba"), r"\['mamba'\]; allowed: gqa"),
        (lambda: SearchSpace.from_options(SHAPE, ffn_shares=[50]), r"\[50\]; allowed: above 0"),
        (lambda: SearchSpace.from_options(SHAPE, multiple=0), "multiple=0; allowed"),
        (lambda: SearchSpace.from_options(SHAPE, kv_heads=[2, 4]), "kv_heads=4 does not divide"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_odd_label_of_a_block_is_in_no_preset():
    odd = Layout.parent(SHAPE).replace(1, Block.from_label("gqa3+gated7"))
    assert not any(SearchSpace.preset(SHAPE, name).contains(odd) for name in PRESETS)
