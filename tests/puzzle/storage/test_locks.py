"""Claims about locks where other machines write too: leases that end with their holders."""

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from puzzle.storage import heartbeats, locks
from puzzle.storage import temporary_places as places
from puzzle.storage.locks import lease
from puzzle.storage.temporary_places import Owner, clean_places, temporary_place
from puzzle.storage.workspace import Workspace

ROOT = Path(locks.__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from puzzle.storage.locks import lease
with lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def quick(monkeypatch):
    """Hearts that beat a hundred times as fast."""
    monkeypatch.setattr(locks, "LOOK", 0.005)
    monkeypatch.setattr(locks, "DEAD", 0.5)
    monkeypatch.setattr(heartbeats, "BEAT", 0.05)
    monkeypatch.setattr(heartbeats, "_THREADS", [])


def holder(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_only_one_holds_a_lease_and_the_next_one_gets_it_at_the_end(tmp_path, quick):
    held, most = [], []

    def work():
        for _ in range(5):
            with lease(tmp_path / "lease"):
                held.append(1)
                most.append(len(held))
                time.sleep(0.002)
                held.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20
    assert not any(tmp_path.iterdir())


def test_a_lease_of_a_killed_process_of_this_machine_is_free_at_once(tmp_path):
    path = tmp_path / "lease"
    process = holder(path)
    with process:
        process.kill()
    begun = time.monotonic()
    with lease(path):
        assert time.monotonic() - begun < locks.DEAD / 2


def test_a_lease_of_another_machine_is_waited_for_until_its_heart_stops(tmp_path, quick):
    path, elsewhere = tmp_path / "lease", replace(Owner.this(), boot="00000000")
    path.write_text(elsewhere.place())
    held = ExitStack()
    taker = threading.Thread(target=lambda: held.enter_context(lease(path)))
    with heartbeats.beating(path):
        taker.start()
        taker.join(1.0)
        assert taker.is_alive()  # it beats twenty times in that second
    taker.join(20.0)
    assert not taker.is_alive()
    assert Owner.of(Path(path.read_text())) == Owner.this()
    held.close()
    assert not path.exists()


def test_what_a_machine_left_on_a_shared_disk_is_deleted_once_it_beats_no_more(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(places, "is_local", lambda path: False)
    left = tmp_path / replace(Owner.this(), boot="00000000").place()
    left.mkdir()
    assert clean_places(tmp_path) == []
    os.utime(left, (time.time() - 2 * heartbeats.DEAD,) * 2)
    assert clean_places(tmp_path) == [left]
    with temporary_place(tmp_path) as own:
        assert own in heartbeats._BEATING
        assert clean_places(tmp_path) == []
    assert own not in heartbeats._BEATING


def test_of_two_machines_that_build_an_artifact_the_first_one_s_stays(tmp_path, monkeypatch):
    """Without any lock: what is there is read by somebody already."""
    workspace = Workspace(tmp_path / "run")
    first, second = (workspace.artifact("library", {"layer": 0}) for _ in range(2))

    def slow(directory):
        (directory / "weights").write_text("second")
        first._build(lambda place: (place / "weights").write_text("first") and None)

    second._build(slow)
    assert (second.path / "weights").read_text() == "first"
    second.verify()
    (second.path / "weights").write_text("other")
    workspace.get_or_build(
        "library", {"layer": 0}, lambda place: (place / "weights").write_text("again") and None
    )
    assert (second.path / "weights").read_text() == "again"
