"""Claims about whole distillations of a tiny child, in one process."""

import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

import puzzle
from puzzle.errors import DataError, ParentError, WorkspaceError
from puzzle.evaluation.text_quality import quality
from puzzle.models.child import PuzzleForCausalLM
from puzzle.text.packing import PackedStream
from tests.factories.distillation import child_model, losses, parent_model, settings, tokens
from tests.factories.parents import text, tokenizer


def run(out, *, data=None, child=None, validation=None, callbacks=(), resume=True, **changes):
    return puzzle.distill(
        child if child is not None else child_model(),
        parent_model(),
        tokens() if data is None else data,
        config=settings(**changes),
        validation=validation,
        tokenizer=tokenizer(),
        out=out,
        callbacks=callbacks,
        resume=resume,
    )


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise InterruptedError


def test_the_child_comes_closer_to_its_parent_on_text_it_did_not_see(tmp_path):
    held_out = tokens(8, seed=9)
    child = child_model()
    before = {name: tensor.clone() for name, tensor in child.state_dict().items()}
    result = run(tmp_path, child=child, validation=held_out, tokens=16 * 8 * 60)
    first, last = result.evaluations[0], result.evaluations[-1]
    assert (first["step"], last["step"]) == (0, 60)
    assert last["kl"] < 0.6 * first["kl"]
    measured = quality(parent_model(), result.child(), held_out, progress=False)
    assert last["kl"] == pytest.approx(measured.kl, rel=1e-3)
    # The model that was given is as it was.
    assert all(torch.equal(child.state_dict()[name], before[name]) for name in before)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_run_has_the_losses_and_weights_of_an_uninterrupted_one(optimizer, tmp_path):
    held_out = tokens(4, seed=9)
    options = {"data": text(), "validation": held_out, "evaluate_every": 3, "optimizer": optimizer}
    whole = run(tmp_path / "whole", **options)
    for step in (1, 3, 5):
        with pytest.raises(InterruptedError):
            run(tmp_path / "parts", callbacks=[StopAfter(step)], **options)
    resumed = run(tmp_path / "parts", **options)
    assert losses(resumed) == losses(whole)
    assert resumed.evaluations == whole.evaluations
    one, other = (load_file(r.path / "model.safetensors") for r in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Frozen(TrainerCallback):
    """Trains the first layer from the third step on, and the second never."""

    def on_step_begin(self, args, state, control, model, **kwargs):
        model.model.layers[0].requires_grad_(state.global_step >= 2)
        model.model.layers[1].requires_grad_(False)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_goes_on_to_the_same_bits_where_a_callback_freezes_parameters(optimizer, tmp_path):
    options = {"optimizer": optimizer, "checkpoint_every": 1}
    whole = run(tmp_path / "whole", callbacks=[Frozen()], **options)
    with pytest.raises(InterruptedError):
        run(tmp_path / "parts", callbacks=[Frozen(), StopAfter(4)], **options)
    resumed = run(tmp_path / "parts", callbacks=[Frozen()], **options)
    assert losses(resumed) == losses(whole)
    before, after = child_model().state_dict(), load_file(resumed.path / "model.safetensors")
    for name, tensor in load_file(whole.path / "model.safetensors").items():
        assert torch.equal(after[name], tensor)
        assert torch.equal(before[name], tensor) == (".layers.1." in name)


@pytest.mark.parametrize(
    ("boundaries", "embeddings"), [(None, True), (((0, 0), (2, 2)), True), (None, False)]
)
def test_what_is_not_trained_stays_as_it_was(boundaries, embeddings, tmp_path):
    options = {"losses": {"cosine": 1.0}, "boundaries": boundaries, "train_embeddings": embeddings}
    with pytest.raises(InterruptedError):
        run(tmp_path, callbacks=[StopAfter(3)], **options)
    result = run(tmp_path, **options)
    assert len(result.history) == 6
    before, after = child_model().state_dict(), result.child().state_dict()
    last = 3 if boundaries is None else 2
    for name in before:
        layer = int(name.split(".")[2]) if name.startswith("model.layers.") else -1
        same = layer > last or name == "model.norm.weight"
        same |= not embeddings and name in ("model.embed_tokens.weight", "lm_head.weight")
        assert torch.equal(before[name], after[name]) == same, name


def test_gradient_checkpointing_and_micro_batches_change_nothing(tmp_path):
    plain = run(tmp_path / "plain", tokens=16 * 8 * 3)
    for name, changes in {
        "checkpointed": {"gradient_checkpointing": True},
        "small": {"micro_batch": 1, "vocab_chunk": 7},
    }.items():
        other = run(tmp_path / name, tokens=16 * 8 * 3, **changes)
        for one, two in zip(losses(plain), losses(other), strict=True):
            assert two == pytest.approx(one, rel=1e-3)


def test_mixed_precision_stays_near_full_precision(tmp_path):
    full = run(tmp_path / "full", tokens=16 * 8 * 3)
    mixed = run(tmp_path / "mixed", tokens=16 * 8 * 3, mixed_precision="bf16")
    for one, two in zip(losses(full), losses(mixed), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=0.02)
        assert two["loss"] != one["loss"]


def test_a_step_is_one_of_adamw_on_the_mean_loss(tmp_path):
    changes = {"tokens": 16 * 8, "warmup": 0.0, "final_share": 1.0, "weight_decay": 0.1}
    result = run(tmp_path, losses={"lm": 1.0}, max_grad_norm=1e9, **changes)
    child = child_model()
    decayed = [p for p in child.parameters() if p.dim() > 1]
    rest = [p for p in child.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    rows = PackedStream(tokens(), None, length=16).take(8)
    loss = child(rows, labels=rows).loss
    loss.backward()
    optimizer.step()
    assert result.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    after = result.child().state_dict()
    for name, tensor in child.state_dict().items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-3, atol=1e-4)


def test_muon_steps_the_matrices_of_layers_and_adamw_the_rest_at_a_tenth_of_the_rate(tmp_path):
    changes = {"tokens": 16 * 8, "warmup": 0.0, "final_share": 1.0, "weight_decay": 0.1}
    losses = {"losses": {"lm": 1.0}, "max_grad_norm": 1e9}
    result = run(tmp_path, optimizer="muon", **losses, **changes)
    child = child_model()
    rows = PackedStream(tokens(), None, length=16).take(8)
    child(rows, labels=rows).loss.backward()
    layers = [p for p in child.model.layers.parameters() if p.dim() == 2]
    vectors = [p for p in child.parameters() if p.dim() < 2]
    embedding = child.model.embed_tokens.weight
    size = {"weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    torch.optim.Muon(layers, lr=1e-2, **size).step()
    groups = [{"params": [embedding], "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}]
    torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95)).step()
    after = result.child().state_dict()
    assert len(layers) + len(vectors) + 1 == sum(1 for _ in child.parameters())
    for name, tensor in child.state_dict().items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-2, atol=1e-4)


def test_child_and_parent_may_be_directories_and_number_formats_are_kept(tmp_path):
    child = child_model().to(torch.bfloat16)
    child.config.dtype = torch.bfloat16
    child.save_pretrained(tmp_path / "child")
    parent_model().save_pretrained(tmp_path / "parent")
    tokenizer("{{ messages }}").save_pretrained(tmp_path / "parent")
    result = puzzle.distill(
        tmp_path / "child",
        tmp_path / "parent",
        text(),
        config=settings(tokens=16 * 8),
        out=tmp_path / "out",
    )
    loaded = AutoModelForCausalLM.from_pretrained(result.path)
    assert isinstance(loaded, PuzzleForCausalLM)
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.blocks == child.config.blocks
    template = (result.path / "chat_template.jinja").read_text()
    assert template == "{{ messages }}"
    record = json.loads((result.path / "distillation.json").read_text())
    assert record["history"] == result.to_dict()["history"]


def test_nothing_that_is_stored_is_pickled(tmp_path):
    run(tmp_path)
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".lock"}


def test_callbacks_are_called_as_the_trainer_calls_them_and_may_steer(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, model, processing_class, **kwargs):
            seen.append(("begin", args.max_steps, processing_class.eos_token))

        def on_log(self, args, state, control, logs, **kwargs):
            seen.append(("log", state.global_step, "kl" in logs))

        def on_save(self, args, state, control, **kwargs):
            seen.append(("save", state.global_step))

        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3
            return control

        def on_train_end(self, args, state, control, **kwargs):
            seen.append(("end", state.global_step))

    result = run(tmp_path, callbacks=[Watch()], log_every=2)
    assert seen == [
        ("begin", 6, "<eos>"),
        ("log", 1, True),
        ("log", 2, True),
        ("save", 2),
        ("save", 3),
        ("end", 3),
    ]
    assert len(result.history) == 3
    # What was stopped goes on where it stopped.
    assert len(run(tmp_path).history) == 6


def test_an_unknown_tracker_or_callback_is_named_before_anything_is_trained(tmp_path):
    absent = [name for name in ("codecarbon", "clearml") if find_spec(name) is None]
    for report_to in ("nothing", *absent):
        with pytest.raises(DataError, match=report_to):
            puzzle.distill(
                child_model(),
                parent_model(),
                tokens(),
                config=settings(),
                out=tmp_path,
                report_to=report_to,
            )
    with pytest.raises(DataError, match="TrainerCallback"):
        run(tmp_path, callbacks=["print"])
    assert not (tmp_path / "checkpoint").exists()


def test_other_settings_do_not_meet_the_checkpoints_of_a_run(tmp_path):
    run(tmp_path, tokens=16 * 8 * 2)
    other = run(tmp_path, tokens=16 * 8 * 2, learning_rate=5e-3)
    assert len(other.history) == 2
    assert losses(other) == losses(run(tmp_path / "fresh", tokens=16 * 8 * 2, learning_rate=5e-3))


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run(tmp_path)
    second = run(tmp_path, callbacks=[StopAfter(1)])
    assert second.history == first.history


def test_without_resume_an_earlier_run_is_in_the_way(tmp_path):
    run(tmp_path, tokens=16 * 8)
    with pytest.raises(WorkspaceError, match="resume it or choose another"):
        run(tmp_path, tokens=16 * 8, resume=False)


@pytest.mark.parametrize(
    ("child", "parent", "error", "match"),
    [
        (None, "absent/model", ParentError, "absent/model"),
        (3, None, ParentError, "int is not a model"),
    ],
)
def test_models_that_cannot_be_opened_are_named(child, parent, error, match, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(error, match=match):
        puzzle.distill(child or child_model(), parent or parent_model(), tokens(), out=tmp_path)


def test_wrong_data_is_refused_before_training(tmp_path):
    with pytest.raises(DataError, match="token windows"):
        run(tmp_path, validation=torch.zeros(3))
    with pytest.raises(DataError, match="multiples of 4"):
        run(tmp_path, batch=6)
