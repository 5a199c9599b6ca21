"""Claims about timing: turns, drift, interpolation over contexts, shapes that do not fit."""

import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from puzzle.costs.checked import usable_blocks
from puzzle.costs.measured import stacks
from puzzle.costs.measured import sublayer_times as measured
from puzzle.costs.measured.stacks import Depth, contexts, mean_step, timed_depth
from puzzle.costs.measured.sublayers import MeasuredCosts
from puzzle.costs.protocol import counted_cost
from puzzle.errors import ConstraintError, CostModelError
from puzzle.hardware.stopwatch import (
    LEAST_ROUNDS,
    Stopwatch,
    drift,
    out_of_memory,
    spread,
    standard_error,
    steady,
    take_turns,
    uncertainty,
)
from puzzle.limits.scenario import Scenario
from puzzle.models.parent import open_parent
from puzzle.stages import Run
from puzzle.storage.workspace import Workspace
from search_space import Block, SearchSpace, counting

DEPTH = Depth(prefill=3, decode=2)
SCENARIO = Scenario(batch=2, prompt_tokens=6, generated_tokens=5, weight_dtype="float32")


@pytest.fixture
def parent(tmp_path):
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=64,
    )
    model = LlamaForCausalLM(config).eval()
    return open_parent(model, workspace=Workspace(tmp_path), tokenizer=object(), dtype="float32")


def measure(parent, tmp_path, **options):
    space = SearchSpace.uniform(parent.shape, attentions=["gqa1", "none"], ffns=["linear"])
    found = MeasuredCosts.measure(parent, space, SCENARIO, workspace=Workspace(tmp_path), **options)
    return found, space


@pytest.mark.parametrize("generated", [1, 2, 3, 5, 128, 1000])
def test_a_decode_step_costs_the_mean_over_the_reply(generated):
    scenario = Scenario(prompt_tokens=6, generated_tokens=generated)

    def linear(n):
        return 1.0 + 0.25 * n

    reply = range(6, 6 + generated)
    times = [linear(n) for n in contexts(scenario)]
    assert mean_step(times) == pytest.approx(sum(map(linear, reply)) / generated)
    assert all(n in reply for n in contexts(scenario))
    assert contexts(Scenario(prompt_tokens=4, generated_tokens=1)) == (4,)


def test_a_step_whose_cost_is_curved_is_averaged_too():
    scenario = Scenario(prompt_tokens=100, generated_tokens=1000)

    def cubic(n):
        return 1.0 + (n / 1000) ** 3

    mean = sum(map(cubic, range(100, 1100))) / 1000
    assert mean_step([cubic(n) for n in contexts(scenario)]) == pytest.approx(mean, rel=2e-4)


def jobs_of(seconds):
    """Jobs of three series, each the seconds of its round times a factor of its own."""
    rounds = {name: iter(seconds) for name in ("a", "b", "c")}
    factors = {"a": 1.0, "b": 2.0, "c": 5.0}
    return {
        name: lambda name=name: {"prefill": factors[name] * next(rounds[name])} for name in rounds
    }


def test_steady_jobs_are_timed_no_longer_than_their_error_needs():
    samples, left = take_turns(jobs_of([9.0] + [1.0] * 8))
    assert left == 0.0
    assert samples == {
        name: {"prefill": [factor] * LEAST_ROUNDS}
        for name, factor in (("a", 1.0), ("b", 2.0), ("c", 5.0))
    }


def test_a_device_that_slows_down_leaves_the_ratios_exact_and_is_reported(caplog):
    samples, left = take_turns(jobs_of([1.0 + 0.2 * i for i in range(9)]))
    ratios = [b / a for a, b in zip(*(samples[k]["prefill"] for k in "ab"), strict=True)]
    assert ratios == pytest.approx([2.0] * LEAST_ROUNDS)
    assert uncertainty(samples) == pytest.approx(0.0, abs=1e-12)
    assert left == pytest.approx(1.6 / 1.2 - 1)
    assert "changed by 33 %" in caplog.text


def test_noise_of_single_jobs_asks_for_more_rounds_up_to_the_most():
    noise = {name: itertools.cycle([1.0, 1.3, 0.8]) for name in "abcde"}
    for turns, series in enumerate(noise.values()):
        for _ in range(turns):
            next(series)
    jobs = {name: lambda n=name: {"decode": next(noise[n])} for name in noise}
    samples, _ = take_turns(jobs, most=6)
    assert {len(phases["decode"]) for phases in samples.values()} == {6}
    assert uncertainty(samples) > 0.01


def test_two_series_are_too_few_to_tell_a_slow_round():
    raw = {"a": {"prefill": [1.0, 2.0]}, "b": {"prefill": [1.0, 1.0]}}
    assert steady(raw) == raw


def test_the_standard_error_of_a_median_is_that_of_normal_samples():
    rng = np.random.default_rng(0)
    medians = [float(np.median(rng.normal(size=25))) for _ in range(4000)]
    errors = [standard_error(rng.normal(size=25).tolist()) for _ in range(400)]
    assert np.mean(errors) == pytest.approx(np.std(medians), rel=0.05)
    assert standard_error([1.0]) == math.inf


def test_drift_and_spread_of_steady_samples_are_nothing():
    assert drift({"a": {"prefill": [1.0] * 5}, "b": {"decode": [3.0] * 4}}) == 0.0
    assert spread([2.0] * 4) == spread([2.0]) == 0.0


def test_the_stopwatch_returns_the_mean_of_its_calls():
    calls = []
    assert Stopwatch("cpu").seconds(lambda: calls.append(1), 5) > 0
    assert len(calls) == 5


def test_a_stack_runs_as_many_copies_as_it_says(parent):
    stack = stacks._Stack(parent, Block.from_label("none+gated48"), SCENARIO, "cpu", DEPTH)
    seen = []
    for index, layer in enumerate(stack.layers):
        layer.register_forward_hook(lambda *_, index=index: seen.append(index))
    with torch.no_grad():
        stack.prefill()
        assert seen == [0, 1, 2]
        stack.step(8)()
    assert seen[3:] == [0, 1]


def test_stacks_are_larger_than_the_processors_cache_and_no_deeper_than_the_model(
    parent, monkeypatch
):
    deep = replace(parent.shape, layers=50)
    attention, ffn = (Block.from_label(label) for label in ("gqa2+none", "none+gated48"))
    weights = 4 * counting.block_parameters(deep, ffn)
    monkeypatch.setattr(stacks, "last_cache_bytes", lambda: 4.5 * weights)
    prompt = replace(SCENARIO, prompt_tokens=64)
    assert timed_depth(deep, ffn, prompt, "cpu") == Depth(prefill=5, decode=14)
    assert timed_depth(deep, ffn, SCENARIO, "cpu") == Depth(prefill=14, decode=14)
    assert timed_depth(deep, ffn, prompt, "cuda") == Depth(prefill=50, decode=50)
    # The KV cache is read as well, but not by a prompt.
    batch = replace(prompt, batch=1000)
    assert timed_depth(deep, attention, batch, "cpu") == Depth(
        prefill=timed_depth(deep, attention, prompt, "cpu").prefill, decode=2
    )
    monkeypatch.setattr(stacks, "last_cache_bytes", lambda: math.inf)
    assert timed_depth(deep, ffn, prompt, "cpu") == Depth(prefill=50, decode=50)


def test_how_deep_stacks_are_decides_which_times_are_read_again(parent, tmp_path, monkeypatch):
    monkeypatch.setattr(parent, "shape", replace(parent.shape, layers=50))
    workspace = Workspace(tmp_path)
    space = SearchSpace.uniform(parent.shape, attentions=["none"], ffns=["linear"])
    stage, keys = measured.SublayerTimes.of(space, SCENARIO), []
    for size in (1.0, math.inf):
        monkeypatch.setattr(stacks, "last_cache_bytes", lambda size=size: size)
        keys.append(Run(workspace=workspace, parent=parent).artifact(stage).key)
    assert keys[0] != keys[1]


@pytest.mark.parametrize("label", ["gqa1+none", "gqa1h2+none", "gqa2w5+none"])
def test_a_stack_decodes_with_as_many_tokens_as_it_says(parent, label):
    seen = []
    stack = stacks._Stack(parent, Block.from_label(label), SCENARIO, "cpu", DEPTH)
    attention = stack.layers[DEPTH.decode - 1].self_attn
    hook = attention.register_forward_hook(
        lambda _, args, kwargs, out: seen.append(kwargs["past_key_values"].get_seq_length()),
        with_kwargs=True,
    )
    with torch.no_grad():
        stack.step(8)()
    hook.remove()
    assert seen == [9]


def test_costs_are_for_the_scenario_that_was_timed(parent, tmp_path):
    found, _ = measure(parent, tmp_path)
    own = parent.shape.parent_blocks[0]
    assert found.block_cost(0, own, SCENARIO)["seconds"] > 0
    with pytest.raises(ConstraintError, match="measure this scenario too"):
        found.block_cost(0, own, Scenario(batch=3))
    assert found.record["device"]["torch"] == torch.__version__
    assert json.dumps(found.record)
    again, _ = measure(parent, tmp_path)
    assert again.seconds == found.seconds


def test_a_shape_without_memory_is_never_chosen_and_the_others_go_on(
    parent, tmp_path, monkeypatch, caplog
):
    build = stacks.stack_job

    def full(parent, block, *rest):
        if block.label == "gqa2+none":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return build(parent, block, *rest)

    monkeypatch.setattr(measured, "stack_job", full)
    found, space = measure(parent, tmp_path)
    assert "gqa2+none does not fit into cpu" in caplog.text
    assert math.isinf(found.block_cost(0, parent.shape.parent_blocks[0], SCENARIO)["seconds"])
    labels = {block.label for row in usable_blocks(found, space, SCENARIO) for block in row}
    assert labels == {"gqa1+gated48", "gqa1+linear", "none+gated48", "none+linear"}


def test_stacks_that_do_not_fit_together_are_timed_one_at_a_time_and_less_deep(
    parent, tmp_path, monkeypatch
):
    monkeypatch.setattr(measured, "STACKS", 0.0)
    deep = replace(parent.shape, layers=50)
    monkeypatch.setattr(parent, "shape", deep)
    built, build = [], stacks.stack_job

    def noted(parent, block, scenario, device, watch, depth):
        built.append(depth)
        return build(parent, block, scenario, device, watch, depth)

    monkeypatch.setattr(measured, "stack_job", noted)
    found, space = measure(parent, tmp_path)
    assert built == [Depth(prefill=2, decode=2)] * len(built) != []
    assert found.record["depths"]["none+linear"] == {"prefill": 2, "decode": 2}
    assert all(found.block_cost(0, block, SCENARIO)["seconds"] > 0 for block in space.blocks(0)[1:])
    block = Block.from_label("gqa2+gated48")
    sizes = [stacks.stack_bytes(deep, block, SCENARIO, depth) for depth in (7, 8)]
    assert stacks.depth_within(deep, block, SCENARIO, (sizes[0] + sizes[1]) / 2) == 7
    assert stacks.depth_within(deep, block, SCENARIO, math.inf) == 50


def test_energy_is_power_times_time_where_a_gpu_tells_it(parent, tmp_path, monkeypatch):
    plain, _ = measure(parent, tmp_path)
    assert "energy" not in plain.resources
    gpu = SimpleNamespace(
        uuid="GPU-1", processes=(), clocks={}, power=1, power_limit=2, temperature=3
    )
    monkeypatch.setattr(measured, "_gpu", lambda device: gpu)
    monkeypatch.setattr(measured, "mean_power", lambda job, uuid: 300.0 if job() else 0.0)
    found, _ = measure(parent, tmp_path / "other")
    assert found.resources["energy"] == "J"
    cost = found.block_cost(0, parent.shape.parent_blocks[0], SCENARIO)
    assert cost["energy"] == pytest.approx(300.0 * cost["seconds"])
    fixed = found.fixed_cost(parent.shape, SCENARIO)
    assert fixed["energy"] == pytest.approx(300.0 * fixed["seconds"])


def test_only_a_lack_of_memory_counts_as_one():
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 5 bytes"))
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**58)
    assert out_of_memory(found.value)


@pytest.mark.gpu
def test_a_gpu_is_timed_with_graphs_and_its_state_is_recorded(parent, tmp_path):
    found, _ = measure(parent, tmp_path, device="cuda")
    assert found.block_cost(0, parent.shape.parent_blocks[0], SCENARIO)["decode_seconds"] > 0
    assert found.record["peak_memory"] > 0
    assert "clocks" in found.record["gpu"]
    assert found.block_cost(0, parent.shape.parent_blocks[0], SCENARIO)["energy"] > 0


def test_one_of_two_devices_is_timed_with_its_share_and_outputs_are_added_up(parent, tmp_path):
    link = {"tensor_parallel": 2, "link": 1e6}
    shared, _ = measure(parent, tmp_path, **link)
    alone, _ = measure(parent, tmp_path)
    # A reduction of two devices sends its whole size once in each direction, at 70 %.
    token = 2 * 32 * 4
    prompt, step = (n * token / 0.7e6 + 2.5e-5 for n in (6, 1))
    for label, part, sums in (
        ("gqa2+none", "gqa1h2+none", 1),
        ("gqa1+none", "gqa1h2+none", 1),
        ("none+gated48", "none+gated24", 1),
        ("none+linear", "none+linear", 0),
    ):
        cost = shared.block_cost(0, Block.from_label(label), SCENARIO)
        timed = shared.seconds[part]
        assert cost["prefill_seconds"] == pytest.approx(timed["prefill"] + sums * prompt)
        assert cost["decode_seconds"] == pytest.approx(5 * (timed["decode"] + sums * step))
        total = cost["prefill_seconds"] + cost["decode_seconds"]
        assert cost["seconds"] == pytest.approx(total)
        whole = alone.block_cost(0, Block.from_label(label), SCENARIO)
        assert cost["parameters"] == whole["parameters"]
        share = counted_cost(parent.shape, Block.from_label(part), SCENARIO)
        assert (cost["memory"], cost["kv_cache"]) == (share["memory"], share["kv_cache"])
        assert cost["memory"] <= whole["memory"]
    fixed = [costs.fixed_cost(parent.shape, SCENARIO)["memory"] for costs in (alone, shared)]
    assert fixed[0] == 2 * fixed[1]
    # A whole model is not what this device runs.
    assert (alone.device, shared.device) == ("cpu", None)
    assert set(alone.seconds) != set(shared.seconds)
    with pytest.raises(CostModelError, match=r"link=None; give the bandwidth"):
        measure(parent, tmp_path, tensor_parallel=2)
    with pytest.raises(CostModelError, match=r"divided evenly: \[1, 2, 4\]"):
        measure(parent, tmp_path, tensor_parallel=3, link=1e6)
