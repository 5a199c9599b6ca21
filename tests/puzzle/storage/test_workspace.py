import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from puzzle.errors import DamagedArtifactError, WorkspaceError
from puzzle.storage import workspace as module
from puzzle.storage.disk import free_bytes, require_free
from puzzle.storage.run_directory import current_run_directory
from puzzle.storage.tensor_files import save_tensors
from puzzle.storage.workspace import Workspace

ROOT = Path(module.__file__).resolve().parents[2]
SPEC = {"seed": 0, "name": "x"}


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", "{}", '{"format": null}', "\xff"])
def test_a_run_directory_whose_format_cannot_be_read_is_refused(tmp_path, text):
    Workspace(tmp_path).artifact("scores", SPEC).write(build)
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(WorkspaceError, match=r"run\.json.*write {\"format\": 2} into"):
        current_run_directory(tmp_path)


def test_a_manifest_that_is_nested_without_end_is_damaged(tmp_path):
    artifact = Workspace(tmp_path).artifact("scores", SPEC).write(build)
    (artifact.path / "manifest.json").write_text("[" * 100_000)
    assert not artifact.exists()


def test_a_run_directory_of_another_format_is_left_alone(tmp_path, caplog):
    old = tmp_path / "run"
    Workspace(old).artifact("scores", SPEC).write(build)
    assert current_run_directory(old) == old
    (old / "run.json").unlink()  # the first format had none
    before = sorted(old.rglob("*"))
    assert current_run_directory(old) == tmp_path / "run-format-2"
    assert "format 1" in caplog.text
    assert "is left as it is" in caplog.text
    (old / "run.json").write_text('{"format": 9}')
    assert current_run_directory(old) == tmp_path / "run-format-2"
    assert sorted(set(old.rglob("*")) - {old / "run.json"}) == before
    assert current_run_directory(tmp_path / "new") == tmp_path / "new"


def build(folder):
    (folder / "scores.json").write_text(json.dumps({"a": 1}))
    (folder / "deep").mkdir()
    weights = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    save_tensors(folder / "deep" / "w.safetensors", {"w": weights, "t": weights.T})
    return {"note": "fine"}


def run_child(root, code):
    source = f"import os, signal, sys, time\nROOT = {str(root)!r}\nSPEC = {SPEC!r}\n"
    source += "from puzzle.storage import workspace as module\nws = module.Workspace(ROOT)\n"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", source + textwrap.dedent(code)], env=env)


@pytest.fixture
def ws(tmp_path):
    return Workspace(tmp_path / "ws")


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def leftovers(ws):
    return list((ws.root / "tmp").iterdir())


def test_what_is_written_is_read_back(ws):
    artifact = ws.artifact("scores", SPEC)
    assert not artifact.exists()
    assert artifact.write(build) is artifact
    again = Workspace(ws.root).artifact("scores", dict(reversed(SPEC.items())))
    assert again.exists()
    again.verify()
    assert again.load_json("scores.json") == {"a": 1}
    loaded = again.load_tensors("deep/w.safetensors")
    assert loaded["w"].dtype == torch.bfloat16
    assert torch.equal(loaded["w"], loaded["t"].T)
    assert leftovers(ws) == []


def test_the_manifest_says_what_how_and_with_which_versions(ws):
    manifest = ws.artifact("scores", SPEC).write(build).manifest
    assert manifest["kind"] == "scores"
    assert manifest["spec"] == SPEC
    assert manifest["metadata"] == {"note": "fine"}
    assert set(manifest["files"]) == {"scores.json", "deep/w.safetensors"}
    assert set(manifest["versions"]) == {"puzzle", "torch", "transformers", "numpy", "python"}
    assert manifest["seconds"] >= 0


def test_another_spec_or_kind_is_another_directory(ws):
    paths = {
        ws.artifact("scores", SPEC).path,
        ws.artifact("scores", {**SPEC, "seed": 1}).path,
        ws.artifact("scores", {**SPEC, "more": None}).path,
        ws.artifact("costs", SPEC).path,
    }
    assert len(paths) == 4


def test_an_artifact_is_built_once(ws, caplog):
    caplog.set_level(logging.INFO)
    calls = []
    for _ in range(2):
        ws.get_or_build("scores", SPEC, lambda folder: calls.append(folder))
    ws.artifact("scores", SPEC).write(lambda folder: calls.append(folder))
    assert len(calls) == 1
    assert "reused scores" in caplog.text


@pytest.mark.parametrize(
    "code",
    [
        """
        def build(folder):
            (folder / "a").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        """
        def build(folder):
            (folder / "a").write_text("whole")
        module._write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        """,
        """
        def build(folder):
            (folder / "a").write_text("whole")
        module.Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        """,
    ],
    ids=["in the builder", "before the manifest", "before the rename"],
)
def test_a_killed_build_leaves_nothing_and_a_rerun_rebuilds(ws, code):
    child = run_child(ws.root, textwrap.dedent(code) + "\nws.get_or_build('scores', SPEC, build)\n")
    assert child.wait(60) == -signal.SIGKILL
    assert not ws.artifact("scores", SPEC).exists()
    assert len(leftovers(ws)) == 1
    assert ws.get_or_build("scores", SPEC, build).load_json("scores.json") == {"a": 1}
    assert len(ws.clean()) == 1
    assert leftovers(ws) == []


def test_clean_keeps_what_living_processes_write(ws):
    def cleaning(folder):
        assert ws.clean() == []
        return build(folder)

    foreign = ws.root / "tmp" / "999999999-aa-another-host"
    foreign.mkdir()
    assert ws.get_or_build("scores", SPEC, cleaning).exists()
    assert leftovers(ws) == [foreign]


@pytest.mark.parametrize("name", ["scores.json", "deep/w.safetensors", "manifest.json"])
def test_a_changed_byte_is_found_named_and_repaired(ws, name, caplog):
    flip_byte(ws.artifact("scores", SPEC).write(build).path / name)
    with pytest.raises(DamagedArtifactError, match=name):
        ws.artifact("scores", SPEC).verify()
    rebuilt = ws.get_or_build("scores", SPEC, build)
    assert name in caplog.text
    rebuilt.verify()


def test_loading_a_damaged_file_names_it(ws, caplog):
    artifact = ws.artifact("scores", SPEC).write(build)
    flip_byte(artifact.path / "deep" / "w.safetensors")
    with pytest.raises(DamagedArtifactError, match=r"w\.safetensors was altered"):
        artifact.load_tensors("deep/w.safetensors")
    assert "w.safetensors" in caplog.text
    assert artifact.load_json("scores.json") == {"a": 1}


def test_a_missing_or_short_file_is_not_an_artifact(ws):
    artifact = ws.artifact("scores", SPEC).write(build)
    (artifact.path / "scores.json").write_text("")
    assert not artifact.exists()
    (artifact.path / "scores.json").unlink()
    assert not artifact.exists()
    assert artifact.write(build).exists()


def test_an_edited_manifest_is_damage(ws):
    artifact = ws.artifact("scores", SPEC).write(build)
    path = artifact.path / "manifest.json"
    path.write_text(path.read_text().replace("fine", "nice"))
    assert not artifact.exists()


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"checksum": 1}', "\udcff"])
def test_any_nonsense_in_the_manifest_is_damage(ws, text):
    artifact = ws.artifact("scores", SPEC).write(build)
    (artifact.path / "manifest.json").write_text(text, errors="surrogateescape")
    assert not artifact.exists()
    assert ws.get_or_build("scores", SPEC, build).exists()


def test_two_processes_build_once(ws, tmp_path):
    counter = tmp_path / "counter"
    code = f"""
    def build(folder):
        with open({str(counter)!r}, "a") as file:
            file.write("x")
        time.sleep(0.5)
        (folder / "a").write_text("done")
    assert (ws.get_or_build("scores", SPEC, build).path / "a").read_text() == "done"
    """
    children = [run_child(ws.root, code) for _ in range(2)]
    assert [child.wait(60) for child in children] == [0, 0]
    assert counter.read_text() == "x"


def test_a_failing_builder_leaves_nothing(ws):
    def fail(folder):
        (folder / "a").write_text("half")
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        ws.get_or_build("scores", SPEC, fail)
    assert leftovers(ws) == []
    assert not ws.artifact("scores", SPEC).path.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_what_the_disk_refuses_is_named(ws, number):
    def fail(folder):
        raise OSError(number, os.strerror(number))

    with pytest.raises(WorkspaceError, match=f"{ws.root}.*use another workspace"):
        ws.get_or_build("scores", SPEC, fail)
    assert leftovers(ws) == []


def test_a_file_elsewhere_is_not_blamed_on_the_workspace(ws):
    def fail(folder):
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/else")

    with pytest.raises(PermissionError, match="/somewhere/else"):
        ws.get_or_build("scores", SPEC, fail)


def test_a_full_disk_under_safetensors_is_named(tmp_path):
    # safetensors reports the disk with an exception of its own, not with OSError.
    with pytest.raises(WorkspaceError, match="absent"):
        save_tensors(tmp_path / "absent" / "w.safetensors", {"w": torch.zeros(2)})


def test_a_builder_may_not_leave_links_or_a_manifest(ws):
    with pytest.raises(WorkspaceError, match="plain files"):
        ws.get_or_build("scores", SPEC, lambda folder: (folder / "a").symlink_to("/etc"))
    with pytest.raises(WorkspaceError, match="reserved"):
        ws.get_or_build("scores", SPEC, lambda folder: (folder / "manifest.json").touch())


def test_an_unwritable_place_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "ws", Path("/proc/ws")):
        with pytest.raises(WorkspaceError, match=f"{path} is not writable"):
            Workspace(path)


@pytest.mark.parametrize("root", ["s3://bucket/run", Path("gs://bucket/run"), "file:///run"])
def test_a_url_is_no_directory(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    for opened in (Workspace, current_run_directory):
        with pytest.raises(WorkspaceError, match="is a URL; give a directory of a file system"):
            opened(root)
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_is_refused_at_once(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "fsync", fail)
    with pytest.raises(WorkspaceError, match="No space left"):
        Workspace(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("kind", ["", "tmp", "locks", "../x", "A", "a/b", "a\n"])
def test_kinds_are_plain_names(ws, kind):
    with pytest.raises(WorkspaceError, match="not allowed"):
        ws.artifact(kind, SPEC)


def test_an_unlisted_file_is_not_opened(ws):
    artifact = ws.artifact("scores", SPEC).write(build)
    with pytest.raises(WorkspaceError, match=r"no file '../x'; it has deep/w.safetensors"):
        artifact.load_json("../x")


def test_too_little_space_is_said_before_long_work(tmp_path):
    require_free(tmp_path / "not" / "yet", 1)
    with pytest.raises(WorkspaceError, match="GiB are needed"):
        require_free(tmp_path, free_bytes(tmp_path) * 2 + 2**40)


def replace_by(path, what, target):
    """Puts a file or a link where a directory is, which is moved to the target."""
    path.rename(target) if what == "link" else None
    if path.is_dir():
        shutil.rmtree(path)
    if what == "file":
        path.write_text("in the way")
    else:
        path.symlink_to(target)


@pytest.mark.parametrize("what", ["file", "dangling link"])
@pytest.mark.parametrize("level", ["artifact", "kind", "tmp", "locks"])
def test_what_is_no_directory_is_replaced_by_one(ws, tmp_path, what, level):
    artifact = ws.artifact("scores", SPEC).write(build)
    path = {"artifact": artifact.path, "kind": artifact.path.parent}.get(level, ws.root / level)
    replace_by(path, what, tmp_path / "absent")
    again = Workspace(ws.root)
    assert again.get_or_build("scores", SPEC, build).load_json("scores.json") == {"a": 1}
    assert path.is_dir()
    assert not path.is_symlink()
    assert not (tmp_path / "absent").exists()
    assert leftovers(ws) == []


@pytest.mark.parametrize("level", ["artifact", "kind"])
def test_an_artifact_that_was_moved_and_linked_is_read_where_it_is(ws, tmp_path, level):
    artifact = ws.artifact("scores", SPEC).write(build)
    path = artifact.path if level == "artifact" else artifact.path.parent
    replace_by(path, "link", tmp_path / "large disk")
    assert ws.artifact("scores", SPEC).sound()
    reused = ws.get_or_build("scores", SPEC, lambda folder: pytest.fail("built again"))
    assert reused.load_json("scores.json") == {"a": 1}
    assert path.is_symlink()


@pytest.mark.parametrize("how", ["rebuilt", "discarded"])
def test_of_a_link_to_a_damaged_artifact_only_the_link_is_deleted(ws, tmp_path, how):
    artifact = ws.artifact("scores", SPEC).write(build)
    replace_by(artifact.path, "link", tmp_path / "large disk")
    flip_byte(tmp_path / "large disk" / "scores.json")
    before = {p: p.read_bytes() for p in (tmp_path / "large disk").rglob("*") if p.is_file()}
    if how == "rebuilt":
        ws.get_or_build("scores", SPEC, build).verify()
        assert not artifact.path.is_symlink()
    else:
        artifact.discard()
        assert not os.path.lexists(artifact.path)
    assert {p: p.read_bytes() for p in before} == before


def test_an_artifact_whose_spec_was_altered_is_not_taken_for_another(ws):
    one = ws.artifact("scores", SPEC).write(build)
    path = one.path / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DamagedArtifactError, match="was altered"):
        ws.find(one.ref)
