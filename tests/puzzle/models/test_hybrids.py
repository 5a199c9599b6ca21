"""Hybrids: mixers are kept as they are or removed, and what is counted is what a cache holds."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from puzzle.errors import ParentError
from puzzle.fusion.fused import fuse_child
from puzzle.models.families import family_of
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from search_space import Attention, Block, Fusion, Layout, ModelShape, SearchSpace
from search_space.blocks import MIXERS
from tests.factories.families import CONFIGS, family_child, family_config, family_model
from tests.factories.parents import tokenizer

HYBRIDS = [name for name in CONFIGS if family_of(family_config(name)).mixers]
TOKENS = torch.randint(3, 97, (2, 30), generator=torch.Generator().manual_seed(5))


def shape_of(name):
    config = family_config(name)
    return family_of(config).shape(config)


@pytest.mark.parametrize("name", HYBRIDS)
@torch.no_grad()
def test_a_cache_holds_the_numbers_that_are_counted_whatever_the_length(name):
    child = family_child(name, lambda layout: layout)
    for length in (9, 30):
        cache = DynamicCache(config=child.config)
        child(TOKENS[:, :length], past_key_values=cache)
        held = 0
        for layer in cache.layers:
            tensors = [getattr(layer, "keys", None), getattr(layer, "values", None)]
            tensors += [*getattr(layer, "conv_states", {}).values()]
            tensors += [*getattr(layer, "recurrent_states", {}).values()]
            held += sum(tensor.numel() for tensor in tensors if tensor is not None)
        assert held == len(TOKENS) * Layout.parent(shape_of(name)).kv_bytes(length, 1)


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_layer_with_a_mixer_may_keep_it_or_lose_it(name):
    shape = shape_of(name)
    space = SearchSpace.preset(shape, "default")
    for own, row in zip(shape.parent_blocks, space.attentions, strict=True):
        if own.attention.kind in MIXERS:
            assert [half.label for half in row] == [own.attention.label, "linear", "none"]
    assert SearchSpace.from_dict(space.to_dict()) == space
    mixer = next(i for i, b in enumerate(shape.parent_blocks) if b.attention.kind in MIXERS)
    softmax = next(i for i, b in enumerate(shape.parent_blocks) if b.attention.kind == "gqa")
    with pytest.raises(ValueError, match="a mixer is kept or removed"):
        shape.check(softmax, shape.parent_blocks[mixer].attention)
    with pytest.raises(ValueError, match="kv_heads=1 is more than the parent's 0"):
        shape.check(mixer, Attention("gqa", 1))


@pytest.mark.parametrize("name", HYBRIDS)
@torch.no_grad()
def test_windows_beside_mixers_leave_padding_out_of_their_states(name):
    def layout_of(parent):
        blocks = list(parent.blocks)
        last = max(i for i, block in enumerate(blocks) if block.attention.kind == "gqa")
        blocks[last] = Block(Attention("gqa", 1, window=7), blocks[last].ffn)
        return Layout(parent.shape, tuple(blocks))

    child = family_child(name, layout_of)
    alone, mask = TOKENS[:1, 6:18], torch.ones(1, 18, dtype=torch.long)
    mask[0, :6] = 0
    given = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    want = child.generate(alone, use_cache=False, **given)[:, alone.shape[1] :]
    for kind in ("dynamic", "static"):
        padded = child.generate(
            TOKENS[:1, :18], attention_mask=mask, cache_implementation=kind, **given
        )
        torch.testing.assert_close(padded[:, 18:], want)


@torch.no_grad()
def test_layers_above_fused_ones_keep_their_types():
    labels = ["conv+gated40", "none+gated60", "none+gated50", "conv+gated30"]
    labels += ["none+gated20", "gqa1+gated40"]

    def layout_of(parent):
        return Layout(parent.shape, tuple(map(Block.from_label, labels)))

    child = family_child("lfm2", layout_of)
    fusion = Fusion.of(layout_of(Layout.parent(shape_of("lfm2"))), [(1, 2)])
    fused = fuse_child(child, fusion, norms="own")
    assert fused.config.layer_types == ["conv", "full_attention", "conv", "conv", "full_attention"]
    cache = StaticCache(config=fused.config, max_cache_len=30)
    steps = [fused(step, past_key_values=cache).logits for step in TOKENS.split(10, 1)]
    torch.testing.assert_close(torch.cat(steps, 1), fused(TOKENS).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", HYBRIDS)
def test_layers_of_a_type_that_is_not_known_are_refused_by_name(name):
    config = family_config(name)
    config.layer_types = ["indexed_attention", *config.layer_types[1:]]
    with pytest.raises(ParentError, match=r"layers of the types \['indexed_attention'\] of a"):
        family_of(config).shape(config)


def test_windows_of_the_parents_own_limit_what_its_layers_cache_and_compute():
    sizes = {"layers": 2, "hidden": 8, "heads": 2, "head_dim": 4, "kv_heads": 2}
    sizes |= {"ffn_width": 16, "vocab": 32}
    everywhere, own = ModelShape(**sizes), ModelShape(**sizes, windows=(None, 5))
    assert Layout.parent(own).kv_bytes(20) == Layout.parent(everywhere).kv_bytes(20) * 25 / 40
    narrower = Block.from_label("gqa1w3+gated8")
    assert own.windowed(1, narrower) == own.windowed(0, narrower) == narrower
    assert own.windowed(1, Block.from_label("gqa1w9+none")).attention.window == 5
    assert own.windowed(1, Block.from_label("none+gated8")).attention.window is None
    assert ModelShape.from_dict(own.to_dict()) == own
    assert "windows" not in everywhere.to_dict()
    with pytest.raises(ValueError, match="1 windows for 2 layers"):
        ModelShape(**sizes, windows=(5,))


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_checkpoint_is_opened_under_the_names_that_its_files_have(name, tmp_path):
    model = family_model(name)
    model.save_pretrained(tmp_path / "model")
    parent = open_parent(
        tmp_path / "model",
        workspace=Workspace(tmp_path / "run"),
        tokenizer=tokenizer(),
        dtype="float32",
    )
    own = model.state_dict()
    for key, tensor in parent.state_dict().items():
        assert torch.equal(tensor, own[key])
