"""Each family: the streamed parent is the stock model, and children are what they should be."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from puzzle.errors import ParentError
from puzzle.models import child as children
from puzzle.models import families
from puzzle.models.assembling import assemble, random_model
from puzzle.models.child import register_family
from puzzle.models.child_config import config_from_layout, layout_from_config
from puzzle.models.families import family_of
from puzzle.models.family import Family
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from search_space import Block, Layout
from tests.factories.families import CONFIGS, SIZES, WINDOW, family_config, family_model

TOKENS = torch.randint(3, 97, (2, 4 * WINDOW), generator=torch.Generator().manual_seed(3))


def opened(name, folder):
    model = family_model(name)
    return model, open_parent(model, workspace=Workspace(folder), dtype="float32")


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_the_streamed_parent_is_the_stock_model(name, tmp_path):
    model, parent = opened(name, tmp_path)
    x_BLD = parent.embed(TOKENS)
    for index in range(parent.shape.layers):
        x_BLD = parent.run(parent.layer(index), x_BLD)
    torch.testing.assert_close(parent.head()(x_BLD), model(TOKENS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_as_they_are_built(name, tmp_path):
    model, parent = opened(name, tmp_path)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert Layout.parent(parent.shape).parameters() == count


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_features_of_the_last_maps_give_what_the_halves_add(name, tmp_path):
    _, parent = opened(name, tmp_path)
    family, x_BLD = parent.family, parent.embed(TOKENS)
    rope = parent.rope(TOKENS.shape[1])
    for index in range(parent.shape.layers):
        layer = parent.layer(index)
        y_BLD = parent.run(layer, x_BLD)
        for slot in (family.attention, family.ffn):
            features = (
                family.attention_features(layer, x_BLD, rope)
                if slot == family.attention
                else family.ffn_features(layer, x_BLD)
            )
            out = getattr(getattr(layer, slot.module), slot.out)(features)
            x_BLD = x_BLD + family.added(layer, slot, out, parent.config)
        torch.testing.assert_close(x_BLD, y_BLD, atol=1e-5, rtol=1e-5)


def random_child(name, labels):
    """A child of mixed blocks whose weights are random, norms and biases included."""
    config = family_config(name)
    config._attn_implementation = family_of(config).attention_implementation
    layout = Layout(family_of(config).shape(config), tuple(map(Block.from_label, labels)))
    torch.manual_seed(1)
    model = random_model(config_from_layout(config, layout), "float32")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 0.5)
    return model, layout


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_child_of_the_parents_own_layout_is_the_parent(name, tmp_path):
    model, parent = opened(name, tmp_path)
    own = Layout.parent(parent.shape)
    child = assemble(parent.config, own, parent.state_dict(), dtype=torch.float32)
    torch.testing.assert_close(child(TOKENS).logits, model(TOKENS).logits, atol=1e-5, rtol=1e-5)
    assert layout_from_config(child.config) == own


PLAIN = ["gqa1+gated40", "gqa2+linear", "none+none", "linear+linear", "gqa1+gated80"]
# Windows narrower than a family's own, and longer than some of the prompt.
WINDOWED = ["gqa1+gated40", "gqa2w5+linear", "none+none", "gqa1h2+linear", "gqa1h2w9+gated80"]
MIXED = {
    "no attention first": ["none+gated9", *PLAIN],
    "no FFN first": ["gqa2+none", *PLAIN],
    "windows behind a linear map": ["linear+gated80", *WINDOWED],
    "a window first": ["gqa2w7+none", *WINDOWED],
}


@pytest.mark.parametrize("labels", MIXED.values(), ids=MIXED)
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_mixed_child_is_counted_cached_saved_and_loaded(name, labels, tmp_path):
    child, layout = random_child(name, labels)
    assert layout.parameters() == sum(p.numel() for p in child.parameters())
    child.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(again) is type(child)
    torch.testing.assert_close(again(TOKENS).logits, child(TOKENS).logits, atol=0, rtol=0)
    prompt = TOKENS[:, : WINDOW + 5]
    mask = torch.ones_like(prompt)
    mask[0, :4] = 0
    given = {"attention_mask": mask, "max_new_tokens": WINDOW, "do_sample": False}
    given |= {"eos_token_id": None, "pad_token_id": 0}
    want = child.generate(prompt, use_cache=False, **given)
    torch.testing.assert_close(child.generate(prompt, **given), want)
    static = child.generate(prompt, cache_implementation="static", **given)
    torch.testing.assert_close(static, want)


@torch.no_grad()
def test_a_family_that_a_user_describes_is_searched_and_its_children_load(tmp_path, monkeypatch):
    config = AutoConfig.for_model("helium", **{**SIZES, "head_dim": 12})
    with pytest.raises(ParentError, match="'helium' is not supported"):
        family_of(config)
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    monkeypatch.setattr(children, "FAMILIES", families.FAMILIES)
    register_family(Family(model_types=("helium",), package="helium", classes="Helium"))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    parent = open_parent(model, workspace=Workspace(tmp_path / "run"), dtype="float32")
    own = Layout.parent(parent.shape)
    made = assemble(parent.config, own, parent.state_dict(), dtype=torch.float32)
    made.save_pretrained(tmp_path / "child")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "child").eval()
    torch.testing.assert_close(again(TOKENS).logits, model(TOKENS).logits, atol=1e-5, rtol=1e-5)
