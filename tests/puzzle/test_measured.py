"""Claims about timing: turns, drift, interpolation over contexts, shapes that do not fit."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from puzzle.costs.checked import usable_blocks
from puzzle.costs.measured import stacks
from puzzle.costs.measured import sublayers as measured
from puzzle.costs.measured.stacks import contexts, mean_step
from puzzle.costs.measured.sublayers import MeasuredCosts
from puzzle.errors import ConstraintError
from puzzle.hardware import stopwatch as timing
from puzzle.hardware.stopwatch import Stopwatch, drift, out_of_memory, spread, take_turns
from puzzle.limits.scenario import Scenario
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from search_space import Block, SearchSpace

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


def test_a_decode_step_costs_the_mean_over_the_reply():
    def seconds(n):
        return 1.0 + 0.25 * n

    times = [(n, seconds(n)) for n in contexts(SCENARIO)]
    assert contexts(SCENARIO) == (6, 8, 10)
    expected = sum(seconds(n) for n in range(6, 11)) / 5
    assert mean_step(times, SCENARIO) == pytest.approx(expected)
    assert mean_step(times[:1], SCENARIO) == pytest.approx(seconds(6))
    assert contexts(Scenario(prompt_tokens=4, generated_tokens=1)) == (4,)


def test_a_run_on_a_device_that_slows_down_is_done_again(caplog):
    calls = []

    def job():
        calls.append(1)
        # The first run of seven rounds, and its warm-up, gets slower; the next is steady.
        return {"prefill": 1.0 + 0.2 * len(calls) if len(calls) <= 7 else 2.0}

    samples, left = take_turns({"job": job}, 6)
    assert len(calls) == 14
    assert left == 0.0
    assert samples["job"]["prefill"] == [2.0] * 6
    assert "measured again" in caplog.text


def test_drift_that_stays_is_told(caplog):
    calls = []

    def job():
        calls.append(1)
        return {"prefill": 1.1 ** len(calls)}

    _, left = take_turns({"job": job}, 6)
    assert len(calls) == 7 * (1 + timing.RETRIES)
    assert left == pytest.approx(1.1**3 - 1)
    assert "not to be trusted" in caplog.text


def test_drift_and_spread_of_steady_samples_are_nothing():
    assert drift({"a": {"prefill": [1.0] * 5}, "b": {"decode": [3.0] * 4}}) == 0.0
    assert spread([2.0] * 4) == spread([2.0]) == 0.0


def test_the_stopwatch_returns_the_mean_of_its_calls():
    calls = []
    assert Stopwatch("cpu").seconds(lambda: calls.append(1), 5) > 0
    assert len(calls) == 5


def test_a_stack_decodes_with_as_many_tokens_as_it_says(parent):
    seen = []
    stack = stacks._Stack(parent, Block.from_label("gqa1+none"), SCENARIO, "cpu")
    attention = stack.layers[-1].self_attn
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
    own = parent.shape.parent_block
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
    assert math.isinf(found.block_cost(0, parent.shape.parent_block, SCENARIO)["seconds"])
    labels = {block.label for row in usable_blocks(found, space, SCENARIO) for block in row}
    assert labels == {"gqa1+gated48", "gqa1+linear", "none+gated48", "none+linear"}


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
    cost = found.block_cost(0, parent.shape.parent_block, SCENARIO)
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
    assert found.block_cost(0, parent.shape.parent_block, SCENARIO)["decode_seconds"] > 0
    assert found.record["peak_memory"] > 0
    assert "clocks" in found.record["gpu"]
    assert found.block_cost(0, parent.shape.parent_block, SCENARIO)["energy"] > 0
