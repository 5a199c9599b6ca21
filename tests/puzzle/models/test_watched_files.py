"""Claims about files that change while they are in use: noticed where read, never published."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import puzzle
from puzzle.errors import ExportError, ParentError
from puzzle.evaluation import evaluating
from puzzle.library.layers import FittedLayer
from puzzle.models.parent import open_parent
from puzzle.models.pretrained import load_model
from puzzle.models.watched_files import WatchedFiles, unchanged_while_read
from puzzle.serving import check
from puzzle.storage.workspace import Workspace
from tests.factories.parents import DATA, SCENARIO, opened, parent_model, save_parent, text

SINGLE = "model.safetensors"
CHANGED = "was changed while it was in use"
MENTIONED = f"{SINGLE} ({CHANGED}|cannot be read|is damaged)|holds neither {SINGLE}"


def replace(place):
    """Another model of the same sizes, saved over this one."""
    model = parent_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(3)
    model.save_pretrained(place)


def overwrite(place):
    """Bytes changed in place; the file system's times are set back."""
    path = place / SINGLE
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(b"\1" * 64)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(place):
    os.truncate(place / SINGLE, (place / SINGLE).stat().st_size - 100)


def remove(place):
    (place / SINGLE).unlink()


def other_config(place):
    config = place / "config.json"
    config.write_text(config.read_text().replace("10000.0", "500000.0"))


def other_tokenizer(place):
    file = place / "tokenizer.json"
    file.write_text(file.read_text().replace('"w3"', '"v3"'))


def touch(place):
    for file in place.iterdir():
        os.utime(file, ns=(1, 1))


def copy_back(place):
    for file in list(place.iterdir()):
        copy = file.with_suffix(".copy")
        shutil.copy(file, copy)
        copy.replace(file)


@pytest.mark.parametrize("change", [replace, overwrite, cut, remove])
def test_weights_that_changed_are_noticed_where_they_are_read(change, saved, tmp_path):
    _, parent, _, _ = opened(saved, tmp_path)
    ref = parent.ref(Workspace(tmp_path / "run"))
    change(saved)
    for read in (lambda: parent.layer(1), parent.embedding, parent.require_unchanged, ref.open):
        with pytest.raises(ParentError, match=MENTIONED):
            read()


@pytest.mark.parametrize("change", [other_config, other_tokenizer])
def test_config_and_tokenizer_are_watched_too(change, saved, tmp_path):
    _, parent, _, _ = opened(saved, tmp_path)
    change(saved)
    with pytest.raises(ParentError, match=CHANGED):
        parent.require_unchanged()


@pytest.mark.parametrize("change", [replace, overwrite, cut, remove, other_config, other_tokenizer])
def test_a_model_that_changes_while_it_is_read_is_refused_whatever_else_happens(change, saved):
    def read(error):
        with unchanged_while_read(saved):
            change(saved)
            if error is not None:
                raise error

    for error in (None, KeyError("model.norm.weight")):
        with pytest.raises(ParentError, match=f"{CHANGED}|cannot be read"):
            read(error)
        save_parent(saved)
    with unchanged_while_read(saved), unchanged_while_read("some/hub-id"):
        load_model(saved)
    with pytest.raises(KeyError, match="other"), unchanged_while_read(saved):
        raise KeyError("other")


def test_a_child_that_changes_while_it_is_evaluated_or_checked_is_refused(saved, monkeypatch):
    def changing(*given, **options):
        other_config(saved)
        return load_model(*given, **options)

    monkeypatch.setattr(evaluating, "load_model", changing)
    with pytest.raises(ParentError, match=CHANGED):
        puzzle.evaluate(saved, data=torch.zeros(1, 8, dtype=torch.int64))

    def failing(*given, **options):
        other_tokenizer(saved)
        raise ExportError("the engine failed")

    monkeypatch.setattr(check, "run_engine", failing)
    with pytest.raises(ParentError, match=CHANGED):
        puzzle.serve_check(saved, engine="transformers")


@pytest.mark.parametrize("change", [touch, copy_back])
def test_files_with_the_same_bytes_are_the_same_whatever_their_times(change, saved, tmp_path):
    _, parent, _, _ = opened(saved, tmp_path)
    ref = parent.ref(Workspace(tmp_path / "run"))
    expected = parent.layer_tensors(1)
    change(saved)
    parent.require_unchanged()
    for one in (parent, ref.open()):
        for name, tensor in one.layer_tensors(1).items():
            assert torch.equal(tensor, expected[name])


def test_a_file_that_changes_while_it_is_hashed_has_no_hash(tmp_path):
    (tmp_path / "a").write_text("1")
    watched = WatchedFiles.of(tmp_path, ["a"])
    (tmp_path / "a").write_text("22")
    assert watched.content() == WatchedFiles.of(tmp_path, ["a"]).content()
    (tmp_path / "a").write_text("3")
    with pytest.raises(ParentError, match=CHANGED):
        watched.require_unchanged()


@pytest.mark.parametrize("at", [pytest.param("first", marks=pytest.mark.slow), "last"])
def test_a_parent_replaced_while_a_search_runs_is_an_error_and_then_the_child_of_the_new_one(
    at, tmp_path, monkeypatch
):
    place = save_parent(tmp_path / "parent")
    new = save_parent(tmp_path / "new")
    replace(new)

    def run(parent, out):
        return puzzle.search(
            parent,
            text(),
            constraints=["parameters <= 0.8x"],
            scenario=SCENARIO,
            precision="float32",
            data=DATA,
            space="default",
            effort="fast",
            hardware="roofline:h100-sxm",
            out=tmp_path / out,
        )

    build, built = FittedLayer.build, []

    def replace_while_building(stage, run, directory):
        build(stage, run, directory)
        built.append(stage)
        if len(built) == (1 if at == "first" else 3):
            for file in new.iterdir():
                shutil.copy(file, place / file.name)

    with monkeypatch.context() as patched:
        patched.setattr(FittedLayer, "build", replace_while_building)
        with pytest.raises(ParentError, match=CHANGED):
            run(place, "run")
    again = run(place, "run").save(tmp_path / "again")
    expected = run(new, "other").save(tmp_path / "expected")
    for name, tensor in load_file(expected / SINGLE).items():
        assert torch.equal(load_file(again / SINGLE)[name], tensor)
    # And what was made of the old one before is sound still: it gives the child of the old one.
    old = save_parent(tmp_path / "old")
    first = run(old, "run").save(tmp_path / "first")
    expected = run(old, "clean").save(tmp_path / "clean-child")
    assert (first / SINGLE).read_bytes() == (expected / SINGLE).read_bytes()


def test_two_files_of_one_name_in_two_folders_both_count(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_file({"x": torch.zeros(2)}, tmp_path / folder / "w.safetensors")
    names = ["a/w.safetensors", "b/w.safetensors"]
    before = WatchedFiles.of(tmp_path, names).content()
    save_file({"x": torch.ones(2)}, tmp_path / "a" / "w.safetensors")
    middle = WatchedFiles.of(tmp_path, names).content()
    save_file({"x": torch.ones(2)}, tmp_path / "b" / "w.safetensors")
    assert len({before, middle, WatchedFiles.of(tmp_path, names).content()}) == 3


def test_the_parent_opened_anew_is_what_is_there_now(saved, tmp_path):
    workspace = Workspace(tmp_path / "run")
    before = open_parent(saved, workspace=workspace, dtype="float32")
    replace(saved)
    after = open_parent(saved, workspace=workspace, dtype="float32")
    assert before.identity != after.identity
    layer = parent_model().model.layers[1].mlp.up_proj.weight
    assert torch.equal(after.layer_tensors(1)["mlp.up_proj.weight"], layer.data * 3)
