"""Claims about timing whole models in turns: which phase, how often, and what a step is."""

import itertools

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from puzzle.costs.measured import replies
from puzzle.costs.measured.replies import DECODE, PREFILL, Reply, time_pair
from puzzle.limits.scenario import Scenario

SCENARIO = Scenario(prompt_tokens=4, generated_tokens=8, weight_dtype="float32")


@pytest.fixture
def model():
    config = LlamaConfig(
        num_hidden_layers=1,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=32,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def timed(monkeypatch, model):
    """Times a pair whose seconds are given: by phase, those of the parent and of the child."""

    def pair(prefill, decode, spent, **options):
        turns = {PREFILL: [iter(each) for each in prefill], DECODE: [iter(d) for d in decode]}
        calls = []

        class Scripted:
            def __init__(self, model, scenario, clock):
                self.at = len(calls_of)
                calls_of.append(self)
                self.spent = spent

            def warm_up(self):
                calls.append("warm-up")

            def seconds(self, phase):
                calls.append(phase)
                return next(turns[phase][self.at])

            def reply(self, prefill, decode):
                return Reply(
                    prefill_seconds=prefill,
                    decode_seconds=decode,
                    kv_cache=0,
                    memory=0,
                    parameters=0,
                )

        calls_of = []
        monkeypatch.setattr(replies, "_Replies", Scripted)
        return time_pair(model, model, SCENARIO, device="cpu", **options), calls

    return pair


def test_steady_models_are_timed_three_times_in_both_phases(timed):
    steady = [itertools.repeat(2.0), itertools.repeat(1.0)]
    found, calls = timed(steady, steady, {PREFILL: 1.0, DECODE: 1.0})
    assert (found.rounds, found.ratio_error) == (3, 0.0)
    assert calls == ["warm-up"] * 2 + [PREFILL, DECODE] * 6
    assert (found.parent.seconds, found.child.seconds) == (4.0, 2.0)


def test_further_rounds_time_what_is_least_certain(timed):
    steady = [itertools.repeat(1.0), itertools.repeat(1.0)]
    noisy = [itertools.cycle([9.0, 8.0, 10.0]), itertools.cycle([5.0, 7.0, 6.0])]
    found, calls = timed(steady, noisy, {PREFILL: 1.0, DECODE: 1.0})
    assert found.rounds == 8
    assert found.ratio_error > 0.01
    assert calls.count(PREFILL) == 2 * 3
    assert calls.count(DECODE) == 2 * 8


def test_a_phase_that_takes_long_is_timed_less_often(timed):
    noise = [9.0, 8.0, 10.0], [5.0, 7.0, 6.0]
    phases = ([itertools.cycle(each) for each in noise] for _ in range(2))
    _, calls = timed(*phases, {PREFILL: 100.0, DECODE: 1.0})
    assert calls.count(PREFILL) == 2 * 3


def test_a_slow_spell_leaves_the_ratio_of_both_models_exact(timed):
    slow = [1.0, 3.0, 1.5]
    found, _ = timed([slow, [2 * s for s in slow]], [slow, [s / 2 for s in slow]], {}, most=3)
    assert found.child.prefill_seconds / found.parent.prefill_seconds == pytest.approx(2.0)
    assert found.child.decode_seconds / found.parent.decode_seconds == pytest.approx(0.5)
    assert found.ratio_error == pytest.approx(0.0, abs=1e-12)


def test_a_step_is_the_time_between_tokens_of_a_reply_that_is_not_cut_short(model):
    clock = itertools.count(start=7.0, step=2.0)
    watch = replies._TokenTimes(lambda: next(clock))
    with torch.no_grad():
        output = replies._generate(model, torch.ones(3, 4, dtype=torch.long), 5, None, watch)
    assert output.sequences.shape == (3, 9)
    assert watch.times == [7.0, 9.0, 11.0, 13.0, 15.0]
