"""Each family: the streamed parent is the stock model, and children are what they should be."""

import pickle

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, StaticCache

from puzzle.errors import ParentError
from puzzle.models import child as children
from puzzle.models import families
from puzzle.models.assembling import random_model
from puzzle.models.child import register_family
from puzzle.models.child_config import config_from_layout
from puzzle.models.experts import down_map, routed, shared_output
from puzzle.models.families import family_of
from puzzle.models.family import Family
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from puzzle.testing import check_family, family_checks
from puzzle.testing.family_checks import as_far_as
from search_space import Block, Layout
from tests.factories.families import CONFIGS, EVERY, SIZES, WINDOW, family_config, family_model

TOKENS = torch.randint(3, 97, (2, 4 * WINDOW), generator=torch.Generator().manual_seed(3))


def opened(name, folder):
    model = family_model(name)
    return model, open_parent(model, workspace=Workspace(folder), dtype="float32")


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_features_of_the_last_maps_give_what_the_halves_add(name, tmp_path):
    _, parent = opened(name, tmp_path)
    family, x_BLD = parent.family, parent.embed(TOKENS)
    rope = parent.rope(TOKENS.shape[1])
    for index in range(parent.shape.layers):
        layer = parent.layer(index)
        y_BLD = parent.run(layer, x_BLD)
        own = parent.shape.parent_blocks[index]
        mixing = family.mixing(own.attention)
        slots = [mixing] * (own.attention.kind != "none") + [family.ffn] * (own.ffn.kind != "none")
        for slot in slots:
            if slot == mixing:
                features = family.attention_features(layer, x_BLD, rope)
            elif own.ffn.kind == "gated":
                features = family.ffn_features(layer, x_BLD)
            if slot == mixing or own.ffn.kind == "gated":
                out = getattr(getattr(layer, slot.module), slot.out)(features)
            else:
                out = by_experts(family, layer, x_BLD)
            x_BLD = x_BLD + family.added(layer, slot, out, parent.config)
        torch.testing.assert_close(x_BLD, y_BLD, atol=1e-5, rtol=1e-5)


def by_experts(family, layer, x_BLD):
    """What a mixture returns: what is shared, and its experts' last maps of their features."""
    mixture = getattr(layer, family.ffn.module)
    h_TD = family.normed(layer, family.ffn.before, x_BLD).flatten(0, 1)
    out_TD = shared_output(family.experts, mixture, h_TD)
    for part in routed(family.experts, mixture, h_TD):
        down = down_map(family.experts, mixture, part.expert)
        biased = len(down) > part.features.shape[-1]
        features = torch.cat([part.features, part.gates], -1) if biased else part.features
        out_TD.index_add_(0, part.tokens, features @ down)
    return out_TD.view_as(x_BLD)


def random_child(name, labels):
    """A child of mixed blocks whose weights are random, norms and biases included."""
    config = family_config(name)
    config._attn_implementation = family_of(config).attention_implementation
    shape = family_of(config).shape(config)
    blocks = map(as_far_as, shape.parent_blocks, map(Block.from_label, labels))
    layout = Layout(shape, tuple(blocks))
    torch.manual_seed(1)
    model = random_model(config_from_layout(config, layout), "float32")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 0.5)
    return model, layout


PLAIN = ["gqa1+gated40", "gqa2+linear", "none+none", "linear+linear", "gqa1+gated80"]
# Windows narrower than a family's own, and longer than some of the prompt.
WINDOWED = ["gqa1+gated40", "gqa2w5+linear", "none+none", "gqa1h2+linear", "gqa1h2w9+gated80"]
MIXED = {
    "no FFN first": ["gqa2+none", *PLAIN],
    "windows behind a linear map": ["linear+gated80", *WINDOWED],
    "a window first": ["gqa2w7+none", *WINDOWED],
}


@pytest.mark.parametrize("labels", MIXED.values(), ids=MIXED)
@pytest.mark.parametrize("name", EVERY)
@torch.no_grad()
def test_a_mixed_child_is_counted_cached_saved_and_loaded(name, labels, tmp_path):
    child, layout = random_child(name, labels)
    assert layout.parameters() == sum(p.numel() for p in child.parameters())
    child.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(again) is type(child)
    own, loaded = child.state_dict(), again.state_dict()
    assert own.keys() == loaded.keys()
    assert all(torch.equal(loaded[tensor], own[tensor]) for tensor in own)
    # Products with slices of experts' tensors round by where these lie in memory.
    most = 1e-5 if family_of(child.config).experts else 0.0
    torch.testing.assert_close(again(TOKENS).logits, child(TOKENS).logits, atol=most, rtol=most)
    prompt = TOKENS[:, : WINDOW + 5]
    mask = torch.ones_like(prompt)
    mask[0, :4] = 0
    given = {"attention_mask": mask, "max_new_tokens": WINDOW, "do_sample": False}
    given |= {"eos_token_id": None, "pad_token_id": 0}
    want = child.generate(prompt, use_cache=False, **given)
    torch.testing.assert_close(child.generate(prompt, **given), want)
    static = child.generate(prompt, cache_implementation="static", **given)
    torch.testing.assert_close(static, want)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
@torch.no_grad()
def test_a_cache_takes_the_bytes_that_are_counted_with_heads_and_windows(name):
    child, layout = random_child(name, MIXED["a window first"])
    cache = StaticCache(config=child.config, max_cache_len=30)
    child(TOKENS[:, :30], past_key_values=cache)
    softmax = [i for i, block in enumerate(layout.blocks) if block.attention.kind == "gqa"]
    taken = [cache.layers[i].keys.nbytes + cache.layers[i].values.nbytes for i in softmax]
    assert sum(taken) == len(TOKENS) * layout.kv_bytes(30, 4)
    assert len(set(taken)) > 3


@pytest.mark.parametrize("name", CONFIGS)
def test_a_childs_config_and_class_are_sent_to_another_process_as_they_are(name):
    config = family_config(name)
    own = config_from_layout(config, Layout.parent(family_of(config).shape(config)))
    sent = own, children.causal_lm_class(family_of(config))
    assert pickle.loads(pickle.dumps(sent)) == sent


@torch.no_grad()
def test_a_family_that_a_user_describes_is_known_from_then_on(monkeypatch):
    config = AutoConfig.for_model("helium", **{**SIZES, "head_dim": 12})
    with pytest.raises(ParentError, match="'helium' is not supported"):
        family_of(config)
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    monkeypatch.setattr(children, "FAMILIES", families.FAMILIES)
    monkeypatch.setattr(family_checks, "FAMILIES", families.FAMILIES)
    register_family(Family(model_types=("helium",), package="helium", classes="Helium"))
    check_family(family_of(config), config)


@pytest.mark.parametrize(
    "name",
    [n for n in CONFIGS if family_of(family_config(n)).attention_implementation == "eager"],
)
def test_an_implementation_that_would_drop_something_is_refused_of_a_child_too(name):
    child, _ = random_child(name, MIXED["no FFN first"])
    with pytest.raises(ValueError, match="does not support an attention implementation"):
        child.set_attn_implementation("sdpa")
