"""The loss of a distillation against one written out from the models' own outputs."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from puzzle.distillation.distill_config import DistillConfig
from puzzle.distillation.distiller import Distiller, boundary_pairs
from puzzle.errors import DataError
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.child_config import config_from_layout
from puzzle.models.families import LLAMA
from search_space import FusedRun, Fusion, Layout
from tests.factories.distillation import LABELS, OWN, child_model, parent_model, settings, tokens


def parent_as_child(model):
    config = config_from_layout(model.config, Layout.parent(LLAMA.shape(model.config)))
    found = PuzzleForCausalLM(config).eval()
    found.load_state_dict(model.state_dict())
    return found


def outputs_by_layer(model, rows):
    """Runs the layers one after the other, without the recorder under test."""
    inner = model.model
    x = inner.embed_tokens(rows)
    rope = inner.rotary_emb(x, torch.arange(rows.shape[1])[None])
    found = []
    for layer in inner.layers:
        x = layer(x, attention_mask=None, position_embeddings=rope)
        found.append(x)
    return found, model.lm_head(inner.norm(x))


def test_the_loss_is_the_sum_of_its_terms_written_out():
    parent, child, rows = parent_as_child(parent_model()), child_model(), tokens(3)
    weights = {"cosine": 0.5, "mse": 0.25, "kl": 1.0, "reverse_kl": 2.0, "lm": 0.125}
    loss, terms = Distiller(child, parent, settings(losses=weights))(rows)
    with torch.no_grad():
        (ours, z), (theirs, t) = outputs_by_layer(child, rows), outputs_by_layer(parent, rows)
    pairs = list(zip(ours, theirs, strict=True))
    log_q, log_p = torch.log_softmax(z, -1), torch.log_softmax(t, -1)
    cosines = [1 - nn.functional.cosine_similarity(a, b, dim=-1).mean() for a, b in pairs]
    shares = [((a - b).square().sum(-1) / b.square().sum(-1)).mean() for a, b in pairs]
    expected = {
        "cosine": torch.stack(cosines).mean(),
        "mse": torch.stack(shares).mean(),
        "kl": (log_p.exp() * (log_p - log_q)).sum(-1).mean(),
        "reverse_kl": (log_q.exp() * (log_q - log_p)).sum(-1).mean(),
        "lm": nn.functional.cross_entropy(z[:, :-1].flatten(0, 1), rows[:, 1:].flatten()),
    }
    for value, name in zip(terms, weights, strict=True):
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    total = sum(weights[name] * expected[name] for name in weights)
    torch.testing.assert_close(loss, total, rtol=1e-4, atol=1e-5)


def test_a_child_that_is_its_parent_has_no_loss_and_no_gradient():
    model = parent_as_child(parent_model())
    child = child_model([OWN] * 4)
    loss, _ = Distiller(child, model, settings())(tokens(2))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert max(float(p.grad.abs().max()) for p in child.parameters()) < 1e-4


def test_the_parent_gets_no_gradient_and_every_weight_of_the_child_does():
    parent, child = parent_as_child(parent_model()), child_model()
    loss, _ = Distiller(child, parent, settings())(tokens(2))
    loss.backward()
    assert all(p.grad is None for p in parent.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in child.parameters())


def test_a_removed_layer_is_compared_at_its_own_boundary():
    parent, child = parent_as_child(parent_model()), child_model([OWN, "none+none", OWN, OWN])
    config = settings(losses={"cosine": 1.0}, boundaries=((1, 1),))
    loss, _ = Distiller(child, parent, config)(tokens(2))
    with torch.no_grad():
        states, _ = outputs_by_layer(parent, tokens(2))
    # Nothing changes before layer 1 nor in it, so its output is the parent's layer 0.
    expected = 1 - nn.functional.cosine_similarity(states[0], states[1], dim=-1).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_a_fused_child_is_compared_where_its_runs_end():
    assert boundary_pairs(Fusion((FusedRun(1, (8, 8)),)), 4) == ((0, 0), (1, 2), (2, 3))
    parent = parent_as_child(parent_model())
    fused = child_model(LABELS[:3], num_hidden_layers=3)
    with pytest.raises(DataError, match=r"3 layers and the parent 4.*boundaries"):
        Distiller(fused, parent, settings())
    pairs = boundary_pairs(Fusion((FusedRun(1, (8, 8)),)), 4)
    assert torch.isfinite(Distiller(fused, parent, settings(boundaries=pairs))(tokens(2))[0])


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="62 tokens and the parent's 70"):
        Distiller(child_model(), parent_as_child(parent_model(vocab_size=70)), settings())
    wide = parent_as_child(parent_model(hidden_size=96))
    with pytest.raises(DataError, match="hidden size is 48 and the parent's 96"):
        Distiller(child_model(), wide, settings())
    loss, _ = Distiller(child_model(), wide, settings(losses={"kl": 1.0}))(tokens(2))
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"losses": {}}, "allowed: weights by name"),
        ({"losses": {"kd": 1.0}}, "cosine.*mse.*kl"),
        ({"losses": {"kl": 0.0}}, "positive"),
        ({"losses": {"kl": float("nan")}}, "positive"),
        ({"tokens": 0}, "tokens=0"),
        ({"length": 1}, "integers of 2"),
        ({"batch": 2.5}, r"batch=2\.5"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"warmup": 1.5}, "from 0 to 1"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"mixed_precision": "fp16"}, "'bf16', 'no'"),
        ({"thinking": "maybe"}, "both"),
        ({"boundaries": ((0, 9),)}, "0 to 3"),
        ({"boundaries": ()}, "boundaries"),
    ],
)
def test_wrong_settings_are_named(changes, match):
    with pytest.raises(DataError, match=match):
        Distiller(child_model(), parent_as_child(parent_model()), settings(**changes))


@pytest.mark.parametrize("micro", [1, 3, 4, 16, 40])
def test_without_a_batch_steps_are_as_large_as_leaves_two_dozen_of_them(micro):
    sizes = [
        DistillConfig(tokens=tokens, length=8, micro_batch=micro)
        for tokens in range(24, 24 * 8 * 17, 24)
    ]
    windows = [config.step_windows for config in sizes]
    assert windows == sorted(windows)
    assert {size % micro for size in windows} == {0}
    assert (windows[0], windows[-1]) == (micro, max(micro, 16 // micro * micro))
    for config, size in zip(sizes, windows, strict=True):
        # Not smaller than needed: the next size would leave fewer steps, or is above 16.
        assert size == micro or config.steps >= 24
        assert size == windows[-1] or config.tokens < 24 * 8 * (size + micro)


def test_the_rate_rises_and_then_falls_to_its_final_share():
    config = settings(tokens=16 * 8 * 100, warmup=0.1, learning_rate=1.0, final_share=0.2)
    rates = [config.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert all(a > b for a, b in pairwise(rates[9:]))
    assert 0.2 < rates[-1] < 0.201
