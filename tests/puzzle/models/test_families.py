"""Each family: the parent streamed layer by layer is the stock model, and its parameters are counted."""

import pytest
import torch

from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from search_space import Layout
from tests.factories.families import CONFIGS, WINDOW, family_model

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
