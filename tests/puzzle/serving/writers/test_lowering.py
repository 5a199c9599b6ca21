"""Claims about what is written for an engine: it computes what the child computes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from puzzle.errors import ExportError
from puzzle.models.assembling import assemble
from puzzle.models.families import LLAMA
from puzzle.serving.writers.lowering import each_layer, lower, needs_ffn_biases
from search_space import ENGINES, Layout, UnsupportedLayoutError, check_layout
from search_space.engine_tables import WITH_VARIANTS
from search_space.engines import uses
from tests.factories.children import CONFIG, MIXED, child_of, layout_of

LABELS = st.tuples(
    st.sampled_from(["gqa3", "gqa1", "gqa2h4", "linear", "none"]),
    st.sampled_from(["gated64", "gated9", "linear", "none"]),
).map("+".join)


def run_written(model, engine, multiple=1):
    """Returns the logits of a torch model made of what would be written for an engine."""
    layout = layout_of(model.config.blocks, LLAMA.shape(model.config))
    written, layers = lower(layout, engine, multiple=multiple)
    biases = layout.shape.mlp_bias or needs_ffn_biases(layers)
    state = model.state_dict()
    tensors = {name: state[name] for name in state if not name.startswith("model.layers.")}
    for number, _, own in each_layer(layout, layers, state, ffn_biases=biases):
        tensors |= {f"model.layers.{number}.{name}": tensor for name, tensor in own.items()}
    parent = LlamaConfig(**{**CONFIG.to_dict(), **_biases(model.config), "mlp_bias": biases})
    written = Layout(replace(written.shape, mlp_bias=biases), written.blocks)
    again = assemble(parent, written, tensors, dtype=torch.float32)
    return written, again


def _biases(config):
    return {name: getattr(config, name) for name in ("attention_bias", "mlp_bias")}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.tuples(LABELS, LABELS, LABELS),
    st.sampled_from(WITH_VARIANTS),
    st.booleans(),
    st.sampled_from([1, 32]),
)
@torch.no_grad()
def test_what_is_written_for_an_engine_computes_the_childs_logits(labels, engine, bias, multiple):
    try:
        check_layout(layout_of(labels), engine)
    except UnsupportedLayoutError:
        return
    biased = bias and engine in ("vllm", "llama.cpp", "mlx")
    model = child_of(labels, attention_bias=biased, mlp_bias=biased)
    written, again = run_written(model, engine, multiple)
    tokens = torch.arange(2, 14)[None]
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-4)
    # Nothing is left that the engine would still have to have rewritten.
    support = ENGINES[engine].support
    left = {use.feature for use in uses(written) if support[use.feature].how != "native"}
    assert left <= {"ffn_width"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_linear_map_as_a_gated_ffn_is_itself_in_every_number_format(dtype):
    model = child_of(["gqa3+linear", "gqa3+gated64", "gqa3+gated64"]).to(dtype)
    layout = layout_of(model.config.blocks)
    _, layers = lower(layout, "vllm")
    _, _, tensors = next(each_layer(layout, layers, model.state_dict(), ffn_biases=True))
    x = torch.randn(7, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    parts = {name.split(".", 1)[1]: t for name, t in tensors.items() if name.startswith("mlp.")}
    gate, up = (
        torch.nn.functional.linear(x, parts[f"{n}_proj.weight"], parts[f"{n}_proj.bias"])
        for n in ("gate", "up")
    )
    y = torch.nn.functional.linear(torch.nn.functional.silu(gate) * up, parts["down_proj.weight"])
    expected = model.model.layers[0].mlp.linear_proj(x)
    torch.testing.assert_close(y, expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_sglang_gets_one_kv_head_count():
    written, _ = run_written(child_of(["gqa3+gated64", "gqa1+gated64", "none+none"]), "sglang")
    assert {block.attention.kv_heads for block in written.blocks} == {3, None}


def test_tensors_that_no_engine_has_a_place_for_are_named():
    model = child_of(MIXED)
    state = {**model.state_dict(), "model.layers.2.self_attn.q_norm.weight": torch.ones(8)}
    _, layers = lower(layout_of(MIXED), "vllm")
    with pytest.raises(ExportError, match=r"layer 2 \(gqa1\+none\) has tensors .*q_norm"):
        list(each_layer(layout_of(MIXED), layers, state, ffn_biases=True))
