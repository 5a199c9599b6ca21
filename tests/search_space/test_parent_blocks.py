"""A parent whose layers differ: its layout, its alternatives, and what is refused."""

from dataclasses import replace

import pytest

from search_space import FFN, Attention, Block, Layout, ModelShape, SearchSpace

ALIKE = ModelShape(
    layers=3, hidden=8, heads=4, head_dim=4, kv_heads=4, ffn_width=16, vocab=32, tied=True
)
LABELS = ["gqa4+gated16", "none+gated8", "gqa2+linear"]
MIXED = replace(ALIKE, blocks=tuple(map(Block.from_label, LABELS)))


def test_blocks_of_the_shapes_own_sizes_say_nothing_new():
    given = replace(ALIKE, blocks=(Block.from_label("gqa4+gated16"),) * 3)
    assert given == ALIKE
    assert ALIKE.parent_blocks == given.parent_blocks == (ALIKE.usual_block,) * 3


def test_the_parents_layout_is_its_blocks_and_survives_json():
    layout = Layout.parent(MIXED)
    assert [block.label for block in layout.blocks] == LABELS
    assert ModelShape.from_dict(MIXED.to_dict()) == MIXED
    assert layout.parameters() == sum(
        Layout(replace(ALIKE, layers=1, blocks=None), (block,)).parameters()
        for block in layout.blocks
    ) - 2 * (32 * 8 + 8)


def test_every_layer_becomes_what_it_has_room_for():
    space = SearchSpace.preset(MIXED, "default", multiple=4)
    rows = [[a.label for a in row] for row in space.attentions]
    assert rows == [
        ["gqa4", "gqa2", "gqa1", "linear", "none"],
        ["none"],
        ["gqa2", "gqa1", "linear", "none"],
    ]
    rows = [[f.label for f in row] for row in space.ffns]
    assert rows[0] == ["gated16", "gated12", "gated8", "gated4", "linear", "none"]
    assert rows[1:] == [["gated8", "gated4", "linear", "none"], ["linear", "none"]]
    assert SearchSpace.from_dict(space.to_dict()) == space
    assert space.contains(Layout.parent(MIXED))


def test_alternatives_that_fit_some_layers_are_left_out_elsewhere_and_refused_if_none():
    space = SearchSpace.uniform(MIXED, attentions=["gqa2"], ffns=["gated8"])
    assert space.attentions == (
        (Attention("gqa", 4), Attention("gqa", 2)),
        (Attention("none"),),
        (Attention("gqa", 2),),
    )
    assert space.ffns == ((FFN("gated", 16), FFN("gated", 8)), (FFN("gated", 8),), (FFN("linear"),))
    with pytest.raises(ValueError, match="FFN width 12 is larger than the parent's 8"):
        SearchSpace.uniform(MIXED, ffns=["gated12"], keep=[0])


def test_a_number_of_blocks_that_is_not_that_of_the_layers_is_refused():
    with pytest.raises(ValueError, match="2 blocks for 3 layers"):
        replace(ALIKE, blocks=MIXED.blocks[:2])
    with pytest.raises(ValueError, match="kv_heads=3 does not divide heads=4"):
        replace(ALIKE, blocks=tuple(map(Block.from_label, ["gqa3+none"] * 3)))
