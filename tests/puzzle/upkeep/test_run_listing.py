"""Claims about puzzle runs: which runs there are, how far they are, and what came of them."""

import json

import pytest

from puzzle import runs
from puzzle.cli import main
from puzzle.errors import DataError
from puzzle.storage.temporary_places import Owner, temporary_place
from puzzle.storage.workspace import Workspace


def begun(path):
    Workspace(path).get_or_build("scores", {}, lambda to: (to / "a").write_text("1") and None)
    return path


def test_runs_are_found_up_to_two_levels_below_and_said_how_far_they_are(tmp_path):
    Workspace(tmp_path / "empty")
    for name in ("begun", "a/deep", "a/b/too-deep"):
        begun(tmp_path / name)
    (tmp_path / "not-a-run").mkdir()
    (tmp_path / "link").symlink_to("begun")
    found = {entry.path.name: (entry.status, entry.artifacts) for entry in runs(tmp_path)}
    assert found == {"empty": ("empty", 0), "begun": ("unfinished", 1), "deep": ("unfinished", 1)}
    assert [entry.path for entry in runs(tmp_path / "begun")] == [tmp_path / "begun"]
    assert runs(tmp_path / "not-a-run") == ()


def test_a_run_is_running_while_a_process_works_in_it(tmp_path):
    begun(tmp_path)
    (tmp_path / "tmp" / Owner.this().place()).mkdir()  # of a process that was killed
    assert runs(tmp_path)[0].status == "unfinished"
    with temporary_place(tmp_path / "tmp"):
        assert runs(tmp_path)[0].status == "running"


def test_a_finished_run_says_its_constraints_and_what_came_of_them(found, tmp_path):
    begun(tmp_path / "run")
    found.save(tmp_path / "run" / "child")
    (entry,) = runs(tmp_path)
    assert entry.status == "finished"
    assert entry.constraints == tuple(map(str, found.evidence.constraints))
    assert entry.constraints
    assert entry.result["parameters"] == found.layout.parameters()
    assert entry.result["kl"] == found.measured.child.kl
    gain = found.gain()
    assert entry.result.get("throughput") == (gain and pytest.approx(gain[0]))
    assert entry.changed is not None
    json.dumps(entry.to_dict(), allow_nan=False)


def test_a_search_whose_child_is_not_saved_in_its_run_is_searched(found):
    (entry,) = runs(found.run_directory)
    assert (entry.status, entry.result) == ("searched", {})


@pytest.mark.parametrize("name", ["puzzle_layout.json", "puzzle_evidence.json"])
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"measured": 1}', "[" * 100_000])
def test_a_damaged_record_makes_a_run_unreadable_and_the_list_goes_on(tmp_path, name, text):
    begun(tmp_path / "one")
    begun(tmp_path / "two")
    (tmp_path / "one" / "child").mkdir()
    (tmp_path / "one" / "child" / name).write_text(text)
    assert [entry.status for entry in runs(tmp_path)] == ["unreadable", "unfinished"]


def test_constraints_of_an_unfinished_command_are_those_it_was_called_with(tmp_path):
    (begun(tmp_path) / "search.toml").write_text('constraint = ["memory <= 1 GiB"]\n')
    assert runs(tmp_path)[0].constraints == ("memory <= 1 GiB",)
    (tmp_path / "search.toml").write_text("constraint = [")
    assert runs(tmp_path)[0].constraints == ()


def test_a_distillation_says_how_many_steps_it_made(tmp_path):
    begun(tmp_path)
    (tmp_path / "child").mkdir()
    (tmp_path / "child" / "distillation.json").write_text('{"steps": 12}')
    assert (runs(tmp_path)[0].status, runs(tmp_path)[0].result) == ("finished", {"distilled": 12.0})


def test_the_command_prints_a_table_or_the_same_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    assert "no run directories here" in capsys.readouterr().out
    begun(tmp_path / "one")
    assert main(["runs"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "status", "constraints", "result", "changed"]
    assert row.split()[:4] == ["one", "unfinished", "-", "-"]
    assert main(["runs", str(tmp_path), "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert printed["path"] == str(tmp_path / "one")


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a directory"):
        runs(tmp_path / "absent")
