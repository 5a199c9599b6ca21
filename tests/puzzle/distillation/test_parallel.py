"""Two processes against one: replicated (DDP) and sharded (FSDP2), over gloo on the CPU."""

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import puzzle
from puzzle.distillation import distill_memory
from tests.factories.distillation import (
    child_model,
    losses,
    mixtures,
    parent_model,
    settings,
    tokens,
)

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, os, sys, torch
from tests.factories.measured_step import measure_steps
from tests.factories.distillation import child_model, mixtures, parent_model, settings, tokens
from transformers import TrainerCallback
import puzzle

class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 3

measured = []
measure_steps(measured.append)
for name, options in json.loads(sys.argv[2]).items():
    measured.clear()
    child, parent = mixtures() if "moe" in name else (child_model(), parent_model())
    for callbacks in ([Stop], []) if "moe" not in name and "bf16" not in name else ([Stop],):
        # Checkpoints are written beside the steps until it is stopped, and in turn with them after.
        config = settings(**options, async_checkpoints=bool(callbacks))
        puzzle.distill(child, parent, tokens(), config=config,
                       validation=tokens(5, seed=9), out=f"{sys.argv[1]}/{name}",
                       callbacks=callbacks)
    with open(f"{sys.argv[1]}/{name}-{os.environ['RANK']}.json", "w") as file:
        json.dump(measured, file)
group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
with open(f"{sys.argv[1]}/limit.txt", "w") as file:
    file.write(str(group.options._timeout))
"""
CASES = {
    "ddp-adamw": {},
    "fsdp-muon": {"shard": True, "gradient_checkpointing": True, "optimizer": "muon"},
    "fsdp-bf16": {"shard": True, "mixed_precision": "bf16"},
    "ddp-moe": {},
    "fsdp-moe": {"shard": True, "gradient_checkpointing": True},
}
CASES = {
    name: {"micro_batch": 2, "timeout_minutes": 125, **options} for name, options in CASES.items()
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    script = out / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment |= {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), str(out), json.dumps(CASES)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return {
        optimizer: puzzle.distill(
            child_model(),
            parent_model(),
            tokens(),
            config=settings(optimizer=optimizer),
            validation=tokens(5, seed=9),
            out=tmp_path_factory.mktemp("one"),
        )
        for optimizer in ("adamw", "muon")
    }


@pytest.mark.parametrize("name", ["ddp-adamw", "fsdp-muon"])
def test_two_processes_end_where_one_does_also_when_stopped_half_way(name, one, two):
    optimizer = name.split("-")[1]
    # One process reads the checkpoint that two wrote, and finds the run finished.
    resumed = puzzle.distill(
        child_model(),
        parent_model(),
        tokens(),
        config=settings(optimizer=optimizer),
        validation=tokens(5, seed=9),
        out=two / name,
    )
    assert len(resumed.history) == 6
    for ours, theirs in zip(losses(one[optimizer]), losses(resumed), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3)
    mine, other = (load_file(r.path / "model.safetensors") for r in (one[optimizer], resumed))
    for tensor in mine:
        torch.testing.assert_close(other[tensor], mine[tensor], rtol=1e-2, atol=1e-3)
    # Four of the five windows can be dealt out to two processes.
    assert resumed.evaluations[-1]["kl"] == pytest.approx(
        one[optimizer].evaluations[-1]["kl"], rel=0.3
    )


def newest(run):
    """The directory of the newest checkpoint of a run."""
    steps = {}
    for manifest in run.glob("checkpoint/*/manifest.json"):
        steps[json.loads(manifest.read_text())["spec"]["step"]] = manifest.parent
    return steps[max(steps)]


def test_each_process_writes_its_own_shards_and_one_alone_reads_them(two, one, tmp_path, caplog):
    run = shutil.copytree(two / "fsdp-muon", tmp_path / "run")
    files = {path.name for path in newest(run).iterdir()}
    shards = {f"shard-0000{n}-model-00001-of-00001.safetensors" for n in (1, 2)}
    # Nothing of torch's own metadata, which would be pickled.
    assert files == {*shards, "stream.safetensors", "state.json", "manifest.json"}
    second = newest(run) / sorted(shards)[1]
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    resumed = puzzle.distill(
        child_model(),
        parent_model(),
        tokens(),
        config=settings(optimizer="muon"),
        validation=tokens(5, seed=9),
        out=run,
    )
    assert "step 6 is damaged; the previous one is used" in caplog.text
    assert len(resumed.history) == 6
    for ours, theirs in zip(losses(one["muon"]), losses(resumed), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-3)


def test_processes_wait_for_one_another_as_long_as_the_settings_say(two):
    assert (two / "limit.txt").read_text() == "2:05:00"


@pytest.mark.parametrize("name", CASES)
def test_each_process_has_the_memory_that_is_computed_beforehand(name, two):
    config = settings(**CASES[name])
    child, parent = mixtures() if "moe" in name else (child_model(), parent_model())
    parent.config.dtype = torch.float32
    computed = distill_memory(child.config, parent.config, config=config, processes=2, device="cpu")
    first, second = (json.loads((two / f"{name}-{rank}.json").read_text()) for rank in (0, 1))
    # In the first step of a process there are no moments yet, and FSDP sets up its buffers.
    first, second = ([step for n, step in enumerate(each) if n % 3] for each in (first, second))
    for part in ("child", "parent", "gradients", "moments"):
        assert {step[part] for step in first} == {getattr(computed, part)}
        assert max(step[part] for step in second) <= getattr(computed, part)
    # How much is gathered ahead depends on how fast each process is; of a mixture that is most.
    passes = computed.gradients + computed.activations + computed.exchanged
    usual = statistics.median if name == "fsdp-moe" else max
    measured = usual([step["passes"] for step in (*first, *second)])
    assert 0.7 * passes < measured < 1.1 * passes
    if not computed.sharded:
        kept = max(step["kept"] for step in first) / config.accumulation(2)
        assert kept == pytest.approx(computed.kept, rel=0.1)
