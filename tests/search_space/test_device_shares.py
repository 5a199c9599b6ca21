"""Claims about what one of several devices holds of a block."""

import pytest

from search_space import Block, ModelShape, counting
from search_space.device_shares import device_share

SHAPE = ModelShape(
    layers=2, hidden=64, heads=8, head_dim=8, kv_heads=4, ffn_width=256, vocab=100, tied=True
)


@pytest.mark.parametrize(
    ("label", "devices", "share"),
    [
        ("gqa4+gated256", 1, "gqa4+gated256"),
        ("gqa4+gated256", 2, "gqa2h4+gated128"),
        ("gqa4+gated256", 8, "gqa1h1+gated32"),
        ("gqa4w5@q8_0+none", 2, "gqa2h4w5@q8_0+none"),
        ("gqa2h4+moe8x16k2", 4, "gqa1h1+moe8x4k2"),
        ("linear+linear", 4, "linear+linear"),
        ("mamba2+none", 2, "mamba2+none"),
        ("gqa3h6+none", 2, None),
        ("gqa4+none", 16, None),
        ("gqa1h2+none", 4, None),
        ("none+gated250", 4, None),
        ("none+moe8x6k2", 4, None),
    ],
)
def test_heads_and_channels_are_divided_evenly_and_linear_maps_not_at_all(label, devices, share):
    own = device_share(SHAPE, Block.from_label(label), devices)
    assert (own and own.label) == share


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("label", ["gqa4+gated256", "gqa2+none", "gqa1+linear", "linear+gated64"])
def test_devices_hold_each_weight_once_but_norms_linear_maps_and_heads_that_are_too_few(
    label, devices
):
    block = Block.from_label(label)
    share = device_share(SHAPE, block, devices)
    whole = counting.block_parameters(SHAPE, block)
    repeated = 0
    for part in (block.attention, block.ffn):
        repeated += {"none": 0, "linear": SHAPE.hidden**2}.get(part.kind, 0)
        repeated += SHAPE.hidden * (part.kind != "none")
    heads = block.attention.kv_heads or 0
    copies = max(0, devices - heads) if heads else 0
    key_and_value = 2 * SHAPE.head_dim * SHAPE.hidden
    expected = whole + (devices - 1) * repeated + copies * key_and_value
    assert devices * counting.block_parameters(SHAPE, share) == expected
    cache = counting.block_kv_bytes(SHAPE, block, 10) / max(1, heads)
    assert counting.block_kv_bytes(SHAPE, share, 10) == cache * max(1, heads // devices)
