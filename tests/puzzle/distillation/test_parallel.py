"""Two processes against one: replicated (DDP) and sharded (FSDP2), over gloo on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import puzzle
from tests.factories.distillation import child_model, losses, parent_model, settings, tokens

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from tests.factories.distillation import child_model, losses, parent_model, settings, tokens
from puzzle.errors import WorkspaceError
from transformers import TrainerCallback
import puzzle

class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 3

cases = {
    "ddp-adamw": {},
    "fsdp-muon": {"shard": True, "gradient_checkpointing": True, "optimizer": "muon"},
}
for name, options in cases.items():
    for callbacks in ([Stop], []):
        puzzle.distill(child_model(), parent_model(), tokens(), config=settings(**options),
                       validation=tokens(5, seed=9), out=f"{sys.argv[1]}/{name}",
                       callbacks=callbacks)
"""


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
        [*command, str(script), str(out)],
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
