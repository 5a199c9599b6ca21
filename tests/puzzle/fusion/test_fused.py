"""Claims about FFN fusion of children, on tiny random models."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from puzzle.costs.protocol import RESOURCES, counted_cost
from puzzle.errors import ConstraintError, DataError
from puzzle.fusion.fused import (
    block_dependency,
    fuse_child,
    fused_cost,
    fusion_candidates,
    propose_fusion,
)
from puzzle.limits.scenario import Scenario
from puzzle.models.assembling import assemble
from puzzle.models.child import PuzzleForCausalLM
from puzzle.models.child_config import layout_from_config
from search_space import Block, Fusion, Layout, ModelShape, plan_fusion
from tests.factories.fused_children import SHAPE, child_of, tokens

LABELS = [
    "gqa2+gated48", "none+gated48", "none+gated24", "none+gated8", "gqa1+gated16", "none+linear",
]  # fmt: skip
FUSION = Fusion.of(Layout(SHAPE, tuple(map(Block.from_label, LABELS))), [(1, 3)])


@torch.no_grad()
def logits_with_layers(model, layer_functions):
    """Returns the logits of a model whose layers are called by the given functions."""
    decoder = model.model
    x = decoder.embed_tokens(tokens())
    rope = decoder.rotary_emb(x, torch.arange(x.shape[1])[None])
    for function in layer_functions:
        x = function(x, rope)
    return model.lm_head(decoder.norm(x))


def call(layer):
    return lambda x, rope: layer(x, attention_mask=None, position_embeddings=rope)


@pytest.mark.parametrize("mlp_bias", [False, True])
@pytest.mark.parametrize("norms", ["last", "own"])
def test_the_fused_child_computes_the_parallel_sum_exactly(mlp_bias, norms):
    model = child_of(LABELS, mlp_bias=mlp_bias)
    fused = fuse_child(model, FUSION, norms=norms)
    layers = model.model.layers

    def parallel(x, _):
        shared = layers[3].post_attention_layernorm
        return x + sum(
            layer.mlp(shared(x) if norms == "last" else layer.post_attention_layernorm(x))
            for layer in layers[1:4]
        )

    expected = logits_with_layers(
        model, [call(layers[0]), parallel, call(layers[4]), call(layers[5])]
    )
    with torch.no_grad():
        found = fused(tokens()).logits
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(found, model(tokens()).logits, atol=1e-3)


def test_the_fused_child_has_the_layout_the_parameters_and_the_settings_it_should():
    model = child_of(LABELS, mlp_bias=True, attention="eager")
    before = copy.deepcopy(model.state_dict())
    fused = fuse_child(model, FUSION)
    layout = layout_from_config(model.config)
    assert layout_from_config(fused.config) == FUSION.apply(layout)
    assert sum(p.numel() for p in fused.parameters()) == FUSION.apply(layout).parameters()
    assert fused.dtype == torch.float64
    assert fused.config._attn_implementation == "eager"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_fused_child_is_saved_and_loaded_and_generates_with_its_cache(tmp_path):
    fused = fuse_child(child_of(LABELS), FUSION)
    fused.save_pretrained(tmp_path)
    again = PuzzleForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    prompt = tokens(1, 5)
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    ones = torch.ones_like(prompt)
    cached = again.generate(prompt, attention_mask=ones, **settings)
    assert torch.equal(
        cached, fused.generate(prompt, attention_mask=ones, use_cache=False, **settings)
    )


def test_fusing_nothing_changes_nothing():
    model = child_of(LABELS)
    with torch.no_grad():
        assert torch.equal(
            fuse_child(model, Fusion(())).eval()(tokens()).logits, model(tokens()).logits
        )


def test_a_fusion_of_another_layout_or_norm_is_refused():
    with pytest.raises(ValueError, match="layer 1 has gqa2 attention"):
        fuse_child(child_of(["gqa2+gated48"] * 4), FUSION)
    with pytest.raises(ValueError, match="allowed: 'last', 'own'"):
        fuse_child(child_of(LABELS), FUSION, norms="first")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_dependency_equals_that_of_a_child_assembled_without_the_layer(attention):
    model = child_of(LABELS, attention=attention)
    layout = layout_from_config(model.config)

    def added(child):
        states = child.model(tokens(), output_hidden_states=True, use_cache=False).hidden_states
        # The last state is recorded after the final norm, so the last layer is left out.
        return [after - before for before, after in pairwise(states[:-1])]

    found = block_dependency(model, tokens(), batch=2)
    whole = added(model)
    for left_out in range(5):
        without = layout.replace(left_out, Block.from_label("none+none"))
        kept = {
            name: tensor
            for name, tensor in model.state_dict().items()
            if not name.startswith(f"model.layers.{left_out}.")
        }
        child = assemble(model.config, without, kept, dtype=torch.float64)
        # Eager attention takes its softmax in float32.
        child.set_attn_implementation(attention)
        other = added(child)
        for layer in range(left_out + 1, 5):
            cosine = torch.nn.functional.cosine_similarity(whole[layer], other[layer], dim=-1)
            assert found[left_out, layer] == pytest.approx(float((1 - cosine).mean()), abs=1e-9)
    assert not np.tril(found).any()
    assert (found[np.triu_indices(6, 1)] > 1e-5).all()


def independent_then_dependent():
    """Returns a child whose layer 1 reads nothing that layer 0 writes, while layer 2 does.

    A single channel scales one fixed vector, so the size of its input, which the norm takes from
    all channels, does not change the direction of what it adds.
    """
    model = child_of(["none+gated24", "none+gated1", "none+gated24", "none+gated8", "gqa2+none"])
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[4:] = 0
        for name in ("gate_proj", "up_proj"):
            getattr(model.model.layers[1].mlp, name).weight[:, :4] = 0
            getattr(model.model.layers[2].mlp, name).weight[:, :4] *= 5
        model.model.layers[0].mlp.down_proj.weight[:4] *= 20
    return model


def test_a_layer_that_reads_nothing_of_another_depends_on_it_by_zero_and_is_fused_with_it():
    model = independent_then_dependent()
    matrix = block_dependency(model, tokens())
    assert matrix[0, 1] == pytest.approx(0, abs=1e-12)
    assert matrix[0, 2] > 0.2
    fusion = propose_fusion(model, tokens(), max_dependency=0.2)
    assert [(run.first, run.last) for run in fusion.runs] == [(0, 1)]
    layout = layout_from_config(model.config)
    assert plan_fusion(layout, dependency=matrix, max_dependency=0.2) == fusion
    assert [(run.first, run.last) for run in plan_fusion(layout).runs] == [(0, 2)]


def test_dependency_of_a_parent_is_measured_as_that_of_its_identity_child():
    config = LlamaConfig(
        num_hidden_layers=3, hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, vocab_size=61,
    )  # fmt: skip
    torch.manual_seed(0)
    parent = LlamaForCausalLM(config).eval()
    shape = ModelShape(**{**SHAPE.to_dict(), "layers": 3, "tied": False})
    child = assemble(config, Layout.parent(shape), parent.state_dict(), dtype=torch.float32)
    np.testing.assert_array_equal(
        block_dependency(parent, tokens()), block_dependency(child, tokens())
    )


def test_layers_not_asked_for_are_nan_and_the_others_unchanged():
    model = child_of(LABELS)
    whole, some = (block_dependency(model, tokens(), layers=n) for n in (None, [1, 2, 4]))
    for i in range(6):
        for j in range(6):
            if j <= i:
                assert some[i, j] == 0
            elif {i, j} <= {1, 2, 4}:
                assert some[i, j] == whole[i, j]
            else:
                assert np.isnan(some[i, j])


def test_an_identity_layer_depends_on_nothing():
    matrix = block_dependency(child_of(["gqa2+gated48", "none+none", "gqa2+none"]), tokens())
    assert matrix[0, 1] == 0
    assert matrix[1, 2] == pytest.approx(0, abs=1e-12)


def test_a_child_that_keeps_all_attention_has_nothing_to_fuse():
    assert propose_fusion(child_of(["gqa2+gated48"] * 2), tokens()) == Fusion(())


@pytest.mark.parametrize(
    ("windows", "options", "message"),
    [
        (torch.zeros(3, 4), {}, r"allowed: token ids, \(windows, length\)"),
        (torch.zeros(4, dtype=torch.long), {}, r"windows of shape \(4,\)"),
        (torch.zeros(0, 4, dtype=torch.long), {}, r"shape \(0, 4\)"),
        (tokens(), {"layers": [6]}, "allowed: one or more of 0 to 5"),
        (tokens(), {"layers": []}, "one or more"),
        (tokens(), {"batch": 0}, "batch=0; allowed: 1 or more"),
    ],
)
def test_bad_windows_and_layers_are_refused(windows, options, message):
    with pytest.raises(DataError, match=message):
        block_dependency(child_of(LABELS), windows, **options)


class Counted:
    """A cost model that only counts, and knows no FFN wider than `widest`."""

    resources = RESOURCES

    def __init__(self, widest=10**9):
        self.widest = widest

    def block_cost(self, layer, block, scenario):
        if (block.ffn.width or 0) > self.widest:
            raise KeyError(block.label)
        return counted_cost(SHAPE, block, scenario)

    def fixed_cost(self, shape, scenario):
        return {}


def test_candidates_are_priced_as_the_block_the_fused_layer_has():
    layout, scenario = Layout(SHAPE, tuple(map(Block.from_label, LABELS))), Scenario()
    found = fusion_candidates(layout, Counted(), scenario, keep_last=False)
    assert [(c.first, c.last, c.label) for c in found] == [
        (1, 2, "none+gated72"),
        (1, 3, "none+gated80"),
        (2, 3, "none+gated32"),
    ]
    for candidate in found:
        run = Fusion.of(layout, [(candidate.first, candidate.last)])
        saved = layout.parameters() - run.apply(layout).parameters()
        members = sum(
            counted_cost(SHAPE, layout.blocks[i], scenario)["parameters"]
            for i in range(candidate.first, candidate.last + 1)
        )
        assert candidate.resources["parameters"] == members - saved
        assert candidate.resources == fused_cost(Counted(), run.runs[0], scenario)


def test_a_cost_model_that_does_not_know_a_fused_block_is_named():
    layout = Layout(SHAPE, tuple(map(Block.from_label, LABELS)))
    with pytest.raises(
        ConstraintError, match=r"no cost for none\+gated72, the fusion of layers 1 to 2"
    ):
        fusion_candidates(layout, Counted(widest=48), Scenario(), keep_last=False)
