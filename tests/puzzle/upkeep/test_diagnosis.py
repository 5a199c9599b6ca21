"""Claims about puzzle doctor: it names what is wrong, and deletes only what a run builds again."""

import json
import os
import shutil
import tempfile
from collections import namedtuple

import pytest

from puzzle import doctor
from puzzle.cli import main
from puzzle.errors import DataError
from puzzle.storage.publishing import publishing_directory
from puzzle.storage.temporary_places import Owner, temporary_place
from puzzle.storage.workspace import Workspace
from puzzle.upkeep import diagnosis as module


def build(folder):
    (folder / "scores.json").write_text('{"a": 1}')


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run directory with two artifacts and a child; the system's directory is empty."""
    (tmp_path / "system").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "system"))
    workspace = Workspace(tmp_path / "run")
    for seed in (0, 1):
        workspace.get_or_build("scores", {"seed": seed}, build)
    with publishing_directory(tmp_path / "run" / "child") as fresh:
        (fresh / "config.json").write_text("{}")
    return tmp_path / "run"


def artifact(run, seed=0):
    return Workspace(run).artifact("scores", {"seed": seed}).path


def files(root):
    return {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}


def leave(directory, **changes):
    this = Owner.this()
    owner = {**{name: getattr(this, name) for name in Owner.__dataclass_fields__}, **changes}
    path = directory / Owner(**owner).place()
    path.mkdir()
    (path / "weights").write_bytes(bytes(1000))
    return path


def test_a_sound_run_has_no_findings_and_is_not_changed(run):
    before = files(run)
    found = doctor(run, clean=True)
    assert found.sound
    assert found.findings == ()
    assert found.artifacts == {"scores": 2}
    assert found.bytes >= sum(map(len, before.values())) > 0
    assert files(run) == before
    assert json.loads(json.dumps(found.to_dict()))["sound"] is True


def spoil(path, how):
    if how == "flipped byte":
        (path / "scores.json").write_text('{"a": 2}')
    elif how == "missing file":
        (path / "scores.json").unlink()
    elif how == "altered manifest":
        file = path / "manifest.json"
        file.write_text(file.read_text().replace('"seed": 0', '"seed": 7'))
    elif how == "no manifest":
        (path / "manifest.json").unlink()
    elif how == "nonsense":
        (path / "manifest.json").write_text("[" * 100_000)
    else:
        shutil.rmtree(path)
        path.symlink_to("absent")


@pytest.mark.parametrize(
    "how",
    ["flipped byte", "missing file", "altered manifest", "no manifest", "nonsense", "dangling"],
)
def test_a_damaged_artifact_is_named_and_only_it_is_deleted(run, how):
    path = artifact(run)
    spoil(path, how)
    before = files(run)
    found = doctor(run)
    assert files(run) == before
    assert not found.sound
    ((kind, where, deletable),) = [(f.kind, f.path, f.deletable) for f in found.findings]
    assert (kind, where, deletable) == ("damaged", path, True)
    assert found.artifacts == {"scores": 1}
    cleaned = doctor(run, clean=True)
    assert cleaned.sound
    assert [finding.deleted for finding in cleaned.findings] == [True]
    assert not os.path.lexists(path)
    kept = {p: data for p, data in before.items() if path not in p.parents}
    assert {p: data for p, data in files(run).items() if p.suffix != ".lock"} == {
        p: data for p, data in kept.items() if p.suffix != ".lock"
    }
    assert doctor(run).findings == ()


def test_a_file_in_place_of_an_artifact_is_not_puzzle_s_to_delete(run):
    path = artifact(run)
    shutil.rmtree(path)
    path.write_text("mine")
    (finding,) = doctor(run, clean=True).findings
    assert (finding.kind, finding.deletable, finding.deleted) == ("damaged", False, False)
    assert path.read_text() == "mine"


def test_what_killed_processes_left_is_found_and_deleted_and_what_may_live_is_not(run, monkeypatch):
    system = run.parent / "system"
    # Of a process that had this one's number before it, on a disk without the system's locks.
    dead = [leave(place, started=1) for place in (run, run / "tmp", run / "child", system)]
    unknown = leave(run / "tmp", boot="00000000")
    monkeypatch.setattr("puzzle.storage.temporary_places.is_local", lambda path: False)
    with temporary_place(run / "tmp") as living:
        found = doctor(run)
        assert found.sound
        assert {f.path: f.deletable for f in found.findings} == {
            **dict.fromkeys(dead, True),
            unknown: False,
        }
        assert all(f.kind == "leftover" and f.bytes == 1000 for f in found.findings)
        cleaned = doctor(run, clean=True)
        assert {f.path for f in cleaned.findings if f.deleted} == set(dead)
        assert living.exists()
    assert not any(path.exists() for path in dead)
    assert unknown.exists()


def test_a_changed_or_missing_file_of_a_child_is_named_and_kept(run):
    (run / "child" / "config.json").write_text("[]")
    (finding,) = doctor(run, clean=True).findings
    assert (finding.kind, finding.path.name, finding.deletable) == ("child", "config.json", False)
    assert "was changed" in finding.message
    (run / "child" / "config.json").unlink()
    (finding,) = doctor(run).findings
    assert "is missing" in finding.message
    (run / "child" / "puzzle_files.json").write_text("{")
    (finding,) = doctor(run).findings
    assert finding.kind == "child"


def test_another_format_other_versions_another_machine_and_a_full_disk_are_told(run, monkeypatch):
    device = {"processor": "Z80", "cores": 1}
    Workspace(run).get_or_build("costs", {"device": device}, build)
    (run / "run.json").write_text('{"format": 9}')
    monkeypatch.setattr(module, "versions", lambda: {"torch": "99"})
    monkeypatch.setattr(module, "free_bytes", lambda path: 1)
    found = doctor(run)
    assert {f.kind for f in found.findings} == {"format", "versions", "device", "disk"}
    text = str(found)
    assert "NOT SOUND" in text
    assert "format 9" in text
    assert "Z80 with 1 cores" in text
    assert "99 is here" in text
    assert not any(f.deletable for f in found.findings)


def test_links_that_are_sound_are_followed(run, tmp_path):
    path = artifact(run)
    path.rename(tmp_path / "large disk")
    path.symlink_to(tmp_path / "large disk")
    assert doctor(run, clean=True).artifacts == {"scores": 2}
    (tmp_path / "large disk" / "scores.json").write_text("other")
    doctor(run, clean=True)
    assert not os.path.lexists(path)
    assert (tmp_path / "large disk" / "scores.json").read_text() == "other"


def test_what_is_no_run_directory_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="is not a run directory"):
            doctor(path, clean=True)
    assert not list(tmp_path.iterdir())


def test_the_command_says_the_same_and_ends_with_1_on_damage(run, capsys):
    assert main(["doctor", str(run)]) == 0
    spoil(artifact(run), "flipped byte")
    assert main(["doctor", str(run)]) == 1
    assert "--clean deletes it" in capsys.readouterr().out
    assert main(["doctor", str(run), "--clean", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [finding["deleted"] for finding in printed["findings"]] == [True]
    assert main(["doctor", str(run.parent)]) == 1
    assert main(["doctor"]) == 2


def test_a_disk_that_is_full_is_measured_where_the_run_is(run, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("puzzle.storage.disk.shutil.disk_usage", lambda path: usage(9, 8, 1))
    (finding,) = doctor(run).findings
    assert (finding.kind, doctor(run).sound) == ("disk", True)
