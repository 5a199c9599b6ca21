"""Claims about the computed time of post-training, in closed form."""

import pytest
from transformers import LlamaConfig

from puzzle.costs.device_specs import DeviceSpec
from puzzle.costs.roofline import Efficiency
from puzzle.errors import SettingError
from puzzle.limits.scenario import Scenario
from puzzle.pipeline import Fleet, preference_seconds, reinforcement_seconds, trace_seconds
from search_space import FFN, Attention, Block, Layout, ModelShape

HIDDEN, LAYERS, WIDTH, VOCAB, KV = 64, 3, 96, 50, 32
MODEL = LlamaConfig(
    hidden_size=HIDDEN,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=WIDTH,
    vocab_size=VOCAB,
    tie_word_embeddings=False,
)
# Parameters of the maps of a layer, and of the head.
LAYER = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV + 3 * HIDDEN * WIDTH
HEAD = HIDDEN * VOCAB


def fleet(count=1, *, flops=1e12, bandwidth=1e30, memory=1e12):
    """Devices that reach all of their rates and need no time to start anything."""
    spec = DeviceSpec(
        name="test", flops={"bfloat16": flops}, memory=memory, bandwidth=bandwidth, source="made up"
    )
    whole = Efficiency(compute=1.0, memory=1.0, launch=0.0)
    return Fleet(device=spec, count=count, efficiency=whole)


def forward(length):
    """Returns the operations of one sequence in layers and head: two for a parameter and token."""
    attended = 4 * HIDDEN * length * (length + 1) // 2
    return LAYERS * (2 * LAYER * length + attended), 2 * HEAD * length


def test_a_pair_passes_twice_through_the_policy_and_its_reference():
    layers, head = forward(20)
    for reference in (True, False):
        for checkpointing in (True, False):
            one = (3 + checkpointing) * layers + 3 * head + reference * (layers + head)
            found = preference_seconds(
                MODEL,
                fleet(4),
                pairs=7,
                length=20,
                reference=reference,
                checkpointing=checkpointing,
            )
            assert found.training == pytest.approx(7 * 2 * one / 4e12, rel=1e-12)
            assert found.sampling == 0


def test_answers_take_as_long_as_their_operations_or_their_bytes():
    scenario = Scenario(batch=4, prompt_tokens=8, generated_tokens=12, weight_dtype="bfloat16")
    # Where moving takes no time: prompts and answers, of which the last token is only written,
    # but its step is taken; the head reads the last token of a prompt and each new one.
    pairs = 20 * 21 // 2
    flops = 4 * (LAYERS * (2 * LAYER * 20 + 4 * HIDDEN * pairs) + 2 * HEAD * (1 + 12))
    found = trace_seconds(MODEL, fleet(), answers=4, scenario=scenario)
    assert found.sampling == pytest.approx(flops / 1e12, rel=1e-9)
    # Ten answers on two engines of four: two rounds.
    many = trace_seconds(MODEL, fleet(2), answers=10, scenario=scenario)
    assert many.sampling == pytest.approx(2 * found.sampling, rel=1e-12)
    # Where computing takes no time: each pass reads the weights, which a longer answer repeats.
    slow = fleet(flops=1e30, bandwidth=1e9)
    one = trace_seconds(MODEL, slow, answers=4, scenario=scenario)
    weights = 2 * (LAYERS * LAYER + HEAD)
    assert one.sampling > 13 * weights / 1e9
    assert one.sampling < 13 * 1.5 * weights / 1e9


def test_a_step_samples_then_reads_and_trains():
    scenario = Scenario(batch=4, prompt_tokens=8, generated_tokens=12, weight_dtype="bfloat16")
    layers, head = forward(20)
    for updates, reference in ((1, True), (2, False)):
        found = reinforcement_seconds(
            MODEL,
            fleet(4),
            fleet(2),
            steps=3,
            answers=16,
            scenario=scenario,
            updates=updates,
            reference=reference,
        )
        sampled = trace_seconds(MODEL, fleet(2), answers=16, scenario=scenario)
        assert found.sampling == pytest.approx(3 * sampled.sampling, rel=1e-12)
        one = updates * (4 * layers + 3 * head) + reference * (layers + head)
        assert found.training == pytest.approx(3 * 16 * one / 4e12, rel=1e-12)
        assert found.hours == (found.sampling + found.training) / 3600


def test_a_layout_takes_less_than_its_parent():
    shape = ModelShape(
        layers=LAYERS, hidden=HIDDEN, heads=4, head_dim=16, kv_heads=2, ffn_width=WIDTH, vocab=VOCAB
    )
    attention, none = Attention("gqa", kv_heads=2), Attention("none")
    blocks = [
        Block(attention, FFN("gated", width=WIDTH)),
        Block(none, FFN("gated", width=48)),
        Block(attention, FFN("none")),
    ]
    smaller = Layout(shape, blocks)
    scenario = Scenario(batch=4, prompt_tokens=8, generated_tokens=12)
    how = {"answers": 4, "scenario": scenario}
    whole = trace_seconds(MODEL, fleet(), **how)
    assert trace_seconds(smaller, fleet(), parent=MODEL, **how).sampling < 0.8 * whole.sampling


def test_an_engine_that_does_not_fit_is_refused():
    scenario = Scenario(batch=4)
    with pytest.raises(SettingError, match="tensor_parallel=4 on 2 device"):
        trace_seconds(MODEL, fleet(2), answers=1, scenario=scenario, tensor_parallel=4)
    with pytest.raises(SettingError, match="lower batch or raise tensor_parallel"):
        trace_seconds(MODEL, fleet(memory=1e4), answers=1, scenario=scenario)
    with pytest.raises(SettingError, match="pairs=0"):
        preference_seconds(MODEL, fleet(), pairs=0, length=8)
