"""Children of any family whose FFNs have no norm of their own output are fused exactly."""

import pytest
import torch

from puzzle.errors import DataError
from puzzle.fusion.fused import fuse_child
from search_space import Fusion
from tests.puzzle.models.test_families import TOKENS, random_child

LABELS = ["none+gated80", "none+gated40", "gqa1+gated80", "none+gated9", "none+none", "gqa2+none"]


@pytest.mark.parametrize("norms", ["last", "own"])
@pytest.mark.parametrize("name", ["granite", "phi3", "qwen3", "lfm2", "qwen3_5_text"])
@torch.no_grad()
def test_the_fused_layer_adds_what_its_ffns_add(name, norms):
    model, layout = random_child(name, LABELS)
    model = model.double()
    fused = fuse_child(model, Fusion.of(layout, [(0, 1)]), norms=norms)
    family, config = model.model.layers[0].family, model.config
    x_BLD = family.scale_embedding(config, model.model.embed_tokens(TOKENS))
    first, last = model.model.layers[:2]
    parts = [family.ffn_update(last, x_BLD, config)]
    norm = last if norms == "last" else first
    h_BLD = family.normed(norm, family.ffn.before, x_BLD)
    out = getattr(first, family.ffn.module)(h_BLD)
    parts.append(family.added(first, family.ffn, out, config))
    # The norms of Qwen 3.5, which multiply by 1 + weight, compute in float32.
    near = 1e-5 if name == "qwen3_5_text" else 1e-7
    want = x_BLD + sum(parts)
    torch.testing.assert_close(fused.model.layers[0](x_BLD), want, atol=near, rtol=near)
    assert len(fused.model.layers) == 5


def test_a_norm_after_the_ffn_is_in_the_way():
    model, layout = random_child("gemma2", LABELS)
    with pytest.raises(DataError, match="'gemma2' cannot be fused: the norm of what its FFNs"):
        fuse_child(model, Fusion.of(layout, [(0, 1)]))
