"""Claims about the paths that users give."""

from pathlib import Path

import pytest

from puzzle.costs.profile import Profile
from puzzle.errors import CostModelError, ExportError, WorkspaceError
from puzzle.storage.paths import refuse_source, user_path
from puzzle.storage.run_directory import current_run_directory
from puzzle.storage.workspace import Workspace


def test_a_tilde_is_the_home_directory_wherever_a_path_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert user_path("~/run") == tmp_path / "home" / "run"
    assert user_path(Path("a/~")) == Path("a/~")
    assert Workspace("~/run").root == tmp_path / "home" / "run"
    assert current_run_directory("~/run") == tmp_path / "home" / "run"
    with pytest.raises(CostModelError, match="no-profile"):
        Profile.load("~/no-profile.json")
    assert not (tmp_path / "~").exists()
    with pytest.raises(WorkspaceError, match="home directory of a user who has none here"):
        user_path("~no-such-user/run")


def test_a_source_is_refused_by_whatever_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "child"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to("child")
    for target in (source, "child", "./x/../child", "link", str(source) + "/"):
        with pytest.raises(ExportError, match="is read from"):
            refuse_source(target, [None, object(), "hub/id", source], error=ExportError)
    with pytest.raises(WorkspaceError, match="is read from"):
        refuse_source("link/config.json", ["child"], inside=("*.json",))


def test_new_files_in_a_source_and_other_places_are_allowed(tmp_path):
    (tmp_path / "child").mkdir()
    (tmp_path / "child" / "report.html").write_text("of before")
    for target in ("child/export", "child/report.html", "other", "child2"):
        refuse_source(tmp_path / target, [tmp_path / "child", "child2"], inside=("*.json",))
    refuse_source("hub/id", ["hub/id"])  # nothing of that name is there
