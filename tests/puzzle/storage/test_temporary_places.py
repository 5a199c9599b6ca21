"""Claims about temporary places: what the dead leave is deleted, what may be alive is not."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from puzzle.storage import temporary_places as module
from puzzle.storage.temporary_places import (
    Owner,
    clean_places,
    clean_up,
    temporary_place,
    temporary_places,
)
from puzzle.storage.workspace import Workspace

ROOT = Path(module.__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from puzzle.storage.temporary_places import temporary_place
with temporary_place(Path(sys.argv[1])) as place:
    (place / "weights").write_text("half")
    print(place, flush=True)
    time.sleep(60)
"""


def holder(directory):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return process, Path(process.stdout.readline().strip())


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


def place_of(directory, owner, **changes):
    """A place as another process would have left it, unlocked."""
    path = directory / replace(owner, **changes).place()
    path.mkdir()
    return path


def test_a_place_is_there_while_it_is_used_and_gone_afterwards(tmp_path):
    with temporary_place(tmp_path) as place:
        assert list(tmp_path.iterdir()) == [place]
        assert place.stat().st_mode & 0o777 == 0o700
        (found,) = temporary_places(tmp_path)
        assert (found.path, found.owner, found.lives) == (place, Owner.this(), True)
        assert clean_places(tmp_path) == []
    with pytest.raises(RuntimeError), temporary_place(tmp_path):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_the_place_of_a_killed_process_is_deleted_and_that_of_a_living_one_is_not(tmp_path):
    process, place = holder(tmp_path)
    try:
        assert clean_places(tmp_path) == []
        assert (place / "weights").exists()
    finally:
        kill(process)
    assert [found.lives for found in temporary_places(tmp_path)] == [False]
    assert clean_places(tmp_path) == [place]
    assert not place.exists()


def test_a_dead_predecessor_with_the_same_process_number_is_recognised(tmp_path):
    """In a container that was started again, every process has the number of its predecessor."""
    this = Owner.this()
    predecessors = [
        place_of(tmp_path, this),  # to the name, the same process
        place_of(tmp_path, this, started=this.started - 1),
        place_of(tmp_path, this, space=this.space + 1),
    ]
    with temporary_place(tmp_path) as own:
        assert sorted(clean_places(tmp_path)) == sorted(predecessors)
        assert own.exists()


def test_a_living_container_that_shares_the_host_name_is_left_alone(tmp_path):
    """Its process numbers mean nothing here, and only the lock says that it lives."""
    process, place = holder(tmp_path)
    this = Owner.this()
    foreign = tmp_path / replace(this, space=this.space + 1, pid=2**22 - 1, started=1).place()
    place.rename(foreign)
    try:
        assert Owner.of(foreign).lives() is None
        assert [found.lives for found in temporary_places(tmp_path)] == [True]
        assert clean_places(tmp_path) == []
    finally:
        kill(process)
    assert clean_places(tmp_path) == [foreign]


def test_what_another_machine_left_on_a_network_disk_is_left_alone(tmp_path, monkeypatch):
    boots = place_of(tmp_path, Owner.this(), boot="00000000")
    monkeypatch.setattr(module, "is_local", lambda path: False)
    assert [found.lives for found in temporary_places(tmp_path)] == [None]
    assert clean_places(tmp_path) == []
    monkeypatch.setattr(module, "is_local", lambda path: True)  # this machine, started again
    assert clean_places(tmp_path) == [boots]


def test_without_locks_numbers_and_start_times_decide(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "flock", refused)
    this = Owner.this()
    earlier = place_of(tmp_path, this, started=this.started - 1)
    elsewhere = place_of(tmp_path, this, space=this.space + 1)
    with temporary_place(tmp_path) as own:
        assert clean_places(tmp_path) == [earlier]
        assert sorted(tmp_path.iterdir()) == sorted([own, elsewhere])


@pytest.mark.parametrize(
    "name", ["mine", ".puzzle-", ".puzzle-mine", "tmp1", ".puzzle-0123456789ab-1-2-3-4-host"]
)
def test_what_no_process_of_puzzle_made_is_left_alone(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / Owner.this().place()).write_text("a file")
    (tmp_path / Owner.this().place()).symlink_to(tmp_path / name)
    assert clean_places(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 3


def test_a_failure_to_lock_leaves_nothing_behind(tmp_path, monkeypatch):
    def too_many(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module.os, "open", too_many)
    with pytest.raises(OSError, match="Too many"), temporary_place(tmp_path):
        pytest.fail("it was made")
    assert not list(tmp_path.iterdir())


def test_the_system_s_directory_is_cleaned_by_the_next_who_uses_it(tmp_path, monkeypatch):
    left = place_of(tmp_path, Owner.this())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_place() as place:
        assert list(tmp_path.iterdir()) == [place]
    assert not left.exists()


def test_what_workers_leave_is_cleaned_up_when_a_command_is_interrupted(tmp_path):
    with temporary_place(tmp_path):
        pass
    left = place_of(tmp_path, Owner.this())
    assert left in clean_up()


def test_a_run_directory_is_cleaned_beside_its_child_and_inside_it(tmp_path):
    workspace = Workspace(tmp_path)
    (tmp_path / "child").mkdir()
    left = [place_of(each, Owner.this()) for each in (tmp_path, tmp_path / "child")]
    left.append(place_of(tmp_path / "tmp", Owner.this()))
    assert sorted(workspace.clean()) == sorted(left)


def test_names_fit_into_a_file_system_and_say_who(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "a/b-c." * 60)
    name = Owner.this().place()
    assert len(name.encode()) < 255
    assert Owner.of(Path(name)) == Owner.this()
    assert Owner.this().pid == os.getpid()
    assert Owner.this().lives()


def test_a_killed_save_is_cleaned_by_the_next(tmp_path):
    process, place = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    module_text = "from puzzle.storage.publishing import publish_text; from pathlib import Path\n"
    module_text += f"publish_text(Path({str(tmp_path / 'x')!r}), 'x')"
    subprocess.run(
        [sys.executable, "-c", module_text],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert not place.exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]
