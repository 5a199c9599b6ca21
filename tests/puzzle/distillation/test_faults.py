"""What a distillation does when it is killed, when its disk fills up and when it diverges."""

import json
import resource
import signal
import threading
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

import puzzle
from puzzle.distillation import checkpoints
from puzzle.errors import DivergedError, ExportError, ParentError, WorkspaceError
from tests.factories.distillation import child_model, losses, parent_model, settings, tokens

ROOT = Path(__file__).parents[3]
KILLED = """
import os, signal, sys, time
from puzzle.distillation import checkpoints
from tests.factories.distillation import child_model, parent_model, settings, tokens
from transformers import TrainerCallback
import puzzle

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

write = checkpoints._write_files
def slow(directory, tensors):
    write(directory, tensors)
    if list(directory.parents[2].glob("checkpoint/*/manifest.json")):
        time.sleep(600)
checkpoints._write_files = slow
puzzle.distill(child_model(), parent_model(), tokens(), config=settings(async_checkpoints=True),
               out=sys.argv[1], callbacks=[Kill])
"""


def run(out, **options):
    changes = {k: options.pop(k) for k in list(options) if k not in ("callbacks", "data")}
    data = options.pop("data", tokens())
    return puzzle.distill(
        child_model(), parent_model(), data, config=settings(**changes), out=out, **options
    )


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(tmp_path, other_process):
    """It is killed while the checkpoint of its fourth step is being written."""
    done = other_process.run(KILLED, tmp_path / "killed")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert set(weights(tmp_path / "killed")) == {2}
    assert not (tmp_path / "killed" / "child").exists()
    assert losses(run(tmp_path / "killed")) == losses(run(tmp_path / "whole"))


class FillDisk(TrainerCallback):
    """Once a checkpoint is written, allows no file larger than a part of the next."""

    def on_save(self, args, state, control, **kwargs):
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))


def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_space(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(WorkspaceError, match="free space"):
            run(tmp_path / "full", callbacks=[FillDisk])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(list((tmp_path / "full" / "checkpoint").iterdir())) == 1
    assert list((tmp_path / "full" / "tmp").iterdir()) == []
    assert losses(run(tmp_path / "full")) == losses(run(tmp_path / "whole"))


def test_too_little_space_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("puzzle.storage.disk.free_bytes", lambda path: 1000)
    with pytest.raises(WorkspaceError, match="MiB are needed"):
        run(tmp_path)
    assert not (tmp_path / "checkpoint").exists()


def damage(artifact):
    file = artifact / "training-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 255
    file.write_bytes(data)


def test_a_damaged_checkpoint_is_deleted_and_the_one_before_is_taken(tmp_path, caplog):
    whole = run(tmp_path)
    newest = max((tmp_path / "checkpoint").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    damage(newest)
    again = run(tmp_path)
    assert "step 6 is damaged" in caplog.text
    assert losses(again) == losses(whole)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run(tmp_path, tokens=16 * 8 * 10, keep_checkpoints=3)
    assert len(list((tmp_path / "checkpoint").iterdir())) == 3


def test_divergence_stops_the_run_with_what_to_do_and_keeps_sound_checkpoints(tmp_path):
    class Poison(TrainerCallback):
        def on_step_begin(self, args, state, control, model, **kwargs):
            if state.global_step == 4:
                model.model.norm.weight.data[0] = float("nan")

    with pytest.raises(DivergedError, match=r"step 5 is not finite.*from step 4.*learning_rate"):
        run(tmp_path / "poisoned", callbacks=[Poison])
    assert losses(run(tmp_path / "poisoned")) == losses(run(tmp_path / "whole"))


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path):
    child = child_model()
    child.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("inf")
    with pytest.raises(ParentError, match=r"layers\.0\.mlp\.up_proj"):
        puzzle.distill(child, parent_model(), tokens(), config=settings(), out=tmp_path)


def test_a_token_outside_the_vocabulary_is_refused(tmp_path):
    bad = tokens()
    bad[3, 3] = 62
    with pytest.raises(puzzle.PuzzleError, match=r"token 62.*vocabulary"):
        run(tmp_path, data=bad)
    assert torch.equal(bad[0], tokens()[0])


def test_an_altered_step_in_a_manifest_makes_no_later_run_fail(tmp_path, caplog):
    run(tmp_path, checkpoint_every=3)
    manifests = sorted(tmp_path.glob("checkpoint/*/manifest.json"))
    newest = max(manifests, key=lambda path: json.loads(path.read_text())["spec"]["step"])
    values = json.loads(newest.read_text())
    values["spec"]["step"] = 4
    newest.write_text(json.dumps(values))
    kept = [path for path in manifests if path != newest]
    for _ in range(2):
        assert losses(run(tmp_path, checkpoint_every=3)) == losses(run(tmp_path / "whole"))
    assert "was altered and is skipped" in caplog.text
    assert all(path.exists() for path in kept)


def test_the_child_that_is_read_is_not_written_over(tmp_path):
    child_model().save_pretrained(tmp_path / "run" / "child")
    before = (tmp_path / "run" / "child" / "model.safetensors").read_bytes()
    for child, parent in ((tmp_path / "run" / "child", parent_model()), (child_model(), None)):
        with pytest.raises(WorkspaceError, match="is read from and cannot be written to"):
            puzzle.distill(
                child,
                parent or tmp_path / "run" / "child",
                tokens(),
                config=settings(),
                out=tmp_path / "run",
            )
    with pytest.raises(WorkspaceError, match="did not write"):
        run(tmp_path / "run")
    assert (tmp_path / "run" / "child" / "model.safetensors").read_bytes() == before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["child"]


def test_a_child_of_one_kind_is_not_written_over_one_of_another(found, tmp_path):
    searched = found.save(tmp_path / "searched" / "child")
    with pytest.raises(WorkspaceError, match=r"is the child of a search .*give another directory"):
        run(searched.parent)
    distilled = run(tmp_path / "distilled").path
    with pytest.raises(WorkspaceError, match="is a distilled child"):
        found.save(distilled)
    for place, kind in ((searched, "the child of a search"), (distilled, "a distilled child")):
        with pytest.raises(ExportError, match=f"is {kind}"):
            puzzle.export(found, place, engine="vllm")
    run(distilled.parent)  # the same again
    found.save(searched)


class Turns(TrainerCallback):
    """Lets a checkpoint be written only once the next step is done; at a step it interrupts."""

    def __init__(self, monkeypatch, interrupt=None):
        self.interrupt, self.waited = interrupt, []
        self.next_done = {step: threading.Event() for step in (2, 4)}
        write = checkpoints._write_files

        def late(directory, tensors):
            step = 2 * len(self.waited) + 2
            self.waited.append(step not in self.next_done or self.next_done[step].wait(60))
            write(directory, tensors)

        monkeypatch.setattr(checkpoints, "_write_files", late)

    def on_step_end(self, args, state, control, **kwargs):
        if before := self.next_done.get(state.global_step - 1):
            before.set()
        if state.global_step == self.interrupt:
            raise KeyboardInterrupt


def weights(out):
    """The files of tensors of every checkpoint, by the step."""
    found = {}
    for manifest in out.glob("checkpoint/*/manifest.json"):
        step = json.loads(manifest.read_text())["spec"]["step"]
        files = manifest.parent.glob("*.safetensors")
        found[step] = {file.name: file.read_bytes() for file in files}
    return found


def test_checkpoints_that_are_written_while_steps_go_on_are_those_of_their_step(
    tmp_path, monkeypatch
):
    whole = run(tmp_path / "whole", keep_checkpoints=3)
    turns = Turns(monkeypatch)
    aside = {"keep_checkpoints": 3, "async_checkpoints": True}
    result = run(tmp_path / "aside", callbacks=[turns], **aside)
    assert turns.waited == [True] * 3
    assert losses(result) == losses(whole)
    assert weights(tmp_path / "aside") == weights(tmp_path / "whole")
    assert set(weights(tmp_path / "aside")) == {2, 4, 6}


def test_an_interrupt_waits_for_the_checkpoint_that_is_being_written(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", callbacks=[Turns(patch, interrupt=5)], async_checkpoints=True)
    assert set(weights(tmp_path / "cut")) == {2, 4}
    assert not list((tmp_path / "cut" / "tmp").iterdir())
    assert losses(run(tmp_path / "cut", async_checkpoints=True)) == losses(run(tmp_path / "whole"))
