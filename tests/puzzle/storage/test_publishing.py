"""Claims about publishing: whole, synced, over what puzzle wrote itself, and over nothing else."""

import errno
import json
import os
from pathlib import Path

import pytest

from puzzle.errors import DamagedArtifactError, ExportError, WorkspaceError
from puzzle.storage import disk, publishing
from puzzle.storage.publishing import (
    add_files,
    publish_text,
    publishing_directory,
    publishing_file,
    require_replaceable,
    written_files,
)

CLAIMS = ("config.json", "model*.safetensors")


def save(path, *, claims=CLAIMS, **files):
    with publishing_directory(path, claims=claims) as fresh:
        for name, text in files.items():
            (fresh / name.replace("_", ".")).write_text(text)


def contents(path):
    return {p.relative_to(path).as_posix(): p.read_text() for p in path.rglob("*") if p.is_file()}


def without_record(path):
    return {name: text for name, text in contents(path).items() if name != publishing.FILES}


def test_a_directory_appears_as_a_whole_with_the_hashes_of_its_files(tmp_path):
    with publishing_directory(tmp_path / "deep" / "child") as fresh:
        (fresh / "sub").mkdir()
        (fresh / "sub" / "a").write_text("a")
        (fresh / "config.json").write_text("{}")
        assert not (tmp_path / "deep" / "child").exists()
    assert without_record(tmp_path / "deep" / "child") == {"sub/a": "a", "config.json": "{}"}
    written = written_files(tmp_path / "deep" / "child")
    assert {name: len(hashes) for name, hashes in written.items()} == {"sub/a": 1, "config.json": 1}
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "child"]


def test_what_puzzle_wrote_is_replaced_and_the_rest_stays(tmp_path):
    save(tmp_path / "x", config_json="1", model_safetensors="old", notes_md="1")
    (tmp_path / "x" / "mine.txt").write_text("mine")
    with publishing_directory(tmp_path / "x", claims=CLAIMS) as fresh:
        (fresh / "config.json").write_text("2")
        (fresh / "model-1.safetensors").write_text("new")
    assert without_record(tmp_path / "x") == {
        "config.json": "2",
        "model-1.safetensors": "new",  # and not the old one, which would be read instead
        "notes.md": "1",
        "mine.txt": "mine",
    }
    assert set(written_files(tmp_path / "x")) == {"config.json", "model-1.safetensors", "notes.md"}


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00002.safetensors"])
def test_a_file_of_others_that_would_go_is_refused_before_anything_is_written(tmp_path, name):
    (tmp_path / name).write_text("of a parent")
    said = f"did not write, .*: {name}. Give another directory"
    published = publishing_directory(tmp_path, claims=CLAIMS, error=ExportError)
    with pytest.raises(ExportError, match=said), published:
        pytest.fail("the work has begun")
    assert contents(tmp_path) == {name: "of a parent"}


def test_a_file_that_was_changed_since_is_a_file_of_others(tmp_path):
    save(tmp_path / "x", config_json="1", readme_md="1")
    (tmp_path / "x" / "readme.md").write_text("edited by hand")
    require_replaceable(tmp_path / "x", CLAIMS)
    with pytest.raises(WorkspaceError, match=r"changed since: readme\.md"):
        save(tmp_path / "x", config_json="2", readme_md="2")
    assert without_record(tmp_path / "x") == {"config.json": "1", "readme.md": "edited by hand"}


def test_a_target_that_is_a_file_or_the_wrong_kind_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WorkspaceError, match="is a file; give a directory"):
        save(tmp_path / "file", config_json="1")
    with pytest.raises(WorkspaceError, match="is a directory; give the path of a file"):
        publish_text(tmp_path, "text")
    assert contents(tmp_path) == {"file": "mine"}


def test_links_that_are_sound_are_followed_and_dangling_ones_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real.txt").write_text("old")
    for name, target in (("link", "real"), ("link.txt", "real.txt"), ("gone", "absent")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "gone.txt").symlink_to("absent.txt")
    save(tmp_path / "link", config_json="1")
    save(tmp_path / "gone", config_json="2")
    publish_text(tmp_path / "link.txt", "new")
    publish_text(tmp_path / "gone.txt", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "config.json").read_text() == "1"
    assert (tmp_path / "real.txt").read_text() == "new"
    assert (tmp_path / "gone" / "config.json").read_text() == "2"
    assert not (tmp_path / "gone").is_symlink()
    assert (tmp_path / "gone.txt").read_text() == "new"
    assert not (tmp_path / "absent.txt").exists()


class Journal:
    """What the operating system was asked to do, in order."""

    def __init__(self, monkeypatch):
        self.calls = []
        for module in (disk, publishing):
            monkeypatch.setattr(module, "fsync", self.sync)
        for name in ("rename", "replace", "unlink"):
            monkeypatch.setattr(Path, name, self.noted(name, getattr(Path, name)))

    def sync(self, path):
        self.calls.append(("fsync", os.fspath(path)))

    def noted(self, name, function):
        def noting(path, *rest, **options):
            self.calls.append((name, os.fspath(path)))
            return function(path, *rest, **options)

        return noting


@pytest.mark.parametrize("there", [False, True])
def test_every_file_and_directory_is_synced_before_it_is_renamed(tmp_path, monkeypatch, there):
    if there:
        save(tmp_path / "x", config_json="1", model_safetensors="1")
    journal = Journal(monkeypatch)
    save(tmp_path / "x", config_json="2", model_safetensors="2")
    renamed = [i for i, (call, _) in enumerate(journal.calls) if call in ("rename", "replace")]
    synced = {path for call, path in journal.calls[: renamed[0]] if call == "fsync"}
    names = {Path(path).name for path in synced}
    assert {"config.json", "model.safetensors", publishing.FILES} <= names
    assert journal.calls[-1] == ("fsync", str(tmp_path / "x" if there else tmp_path))


def test_a_half_replaced_directory_does_not_look_like_a_model_and_can_be_saved_again(
    tmp_path, monkeypatch
):
    """Whichever file operation is the first that does not happen, nothing mixed can be loaded."""
    steps = 0
    while True:
        place = tmp_path / str(steps)
        save(place, config_json="1", model_safetensors="1")
        (place / "mine").write_text("mine")
        left = [steps]

        def stops(function, left=left):
            def stopping(path, *rest, **options):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return function(path, *rest, **options)

            return stopping

        with monkeypatch.context() as patch:
            for name in ("rename", "replace", "unlink"):
                patch.setattr(Path, name, stops(getattr(Path, name)))
            try:
                save(place, config_json="2", model_safetensors="2")
                done = True
            except KeyboardInterrupt:
                done = False
        whole = without_record(place)
        if "config.json" in whole:
            assert whole["config.json"] == whole["model.safetensors"]
        save(place, config_json="3", model_safetensors="3")
        assert without_record(place) == {
            "config.json": "3",
            "model.safetensors": "3",
            "mine": "mine",
        }
        assert not list(place.glob(".puzzle-*"))
        if done:
            break
        steps += 1
    assert steps >= 4


def test_a_failure_leaves_what_was_there(tmp_path):
    publish_text(tmp_path / "a.txt", "old")
    with pytest.raises(WorkspaceError, match="disk is full"), publishing_file(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert contents(tmp_path) == {"a.txt": "old"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2, "files": {}}', '{"format": 1}'])
def test_a_record_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / publishing.FILES).write_text(text)
    with pytest.raises(DamagedArtifactError, match=publishing.FILES):
        written_files(tmp_path)


def test_two_that_save_at_once_leave_one_of_both_and_not_a_mixture(tmp_path):
    with publishing_directory(tmp_path / "x", claims=CLAIMS) as fresh:
        for name in ("config.json", "model.safetensors"):
            (fresh / name).write_text("slow")
        save(tmp_path / "x", config_json="fast", model_safetensors="fast")
    assert set(without_record(tmp_path / "x").values()) == {"slow"}
    assert json.loads((tmp_path / "x" / publishing.FILES).read_text())["format"] == 1


def test_files_added_to_a_directory_of_puzzle_s_are_puzzle_s_too(tmp_path):
    save(tmp_path / "x", config_json="1", model_safetensors="1")
    add_files(tmp_path / "x", {"code.py": "2", "config.json": "2"})
    assert set(written_files(tmp_path / "x")) == {"code.py", "config.json", "model.safetensors"}
    save(tmp_path / "x", config_json="3", code_py="3")
    assert without_record(tmp_path / "x") == {"config.json": "3", "code.py": "3"}
    (tmp_path / "y").mkdir()
    add_files(tmp_path / "y", {"config.json": "1"})
    assert contents(tmp_path / "y") == {"config.json": "1"}
