"""Claims about threads: no more than the cores that a process is given, unless the user chose."""

import os

import psutil
import pytest

from puzzle.hardware import threads
from puzzle.hardware.threads import free_cores, given_cores

LIMIT = "import puzzle, torch; from puzzle.hardware.threads import limit_threads; "


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def group(folder, membership, files):
    """Writes control groups and the file that says which one this process is in."""
    for name, text in files.items():
        file = folder / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "own").write_text(membership)
    return folder / "cgroup", folder / "own"


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "350000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000\n"}, 8),
        ("0::/pod/job\n", {"pod/cpu.max": "400000 100000", "pod/job/cpu.max": "max 100000"}, 4),
        ("0::/pod/job\n", {"pod/cpu.max": "max 100000", "pod/job/cpu.max": "300000 100000"}, 3),
        ("0::/../..\n", {"cpu.max": "200000 100000\n"}, 2),
        (
            "5:cpu,cpuacct:/docker/1\n0::/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2,
        ),
        (
            "1:cpu:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        ("7:cpuset:/\n", {}, 8),
    ],
)
def test_the_tightest_quota_of_the_own_control_groups_counts(tmp_path, membership, files, cores):
    assert given_cores(*group(tmp_path, membership, files)) == cores


def test_without_control_groups_the_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    assert given_cores(tmp_path / "none", tmp_path / "neither") == 3


@pytest.mark.parametrize(("percent", "cores"), [(0.0, 4), (25.0, 4), (75.0, 2), (100.0, 1)])
def test_free_cores_are_those_given_that_others_leave_idle(monkeypatch, percent, cores):
    monkeypatch.setattr(threads, "given_cores", lambda: 4)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: percent)
    assert free_cores() == cores


SMALL = "import puzzle.hardware.threads as t; t.given_cores = lambda: 1; "


@pytest.mark.parametrize(
    ("before", "environment", "expected"),
    [
        ("t._allowed_cores = lambda: 6; torch.set_num_threads(6); ", {}, 1),
        ("t._allowed_cores = lambda: 6; torch.set_num_threads(7); ", {}, 7),
        ("t._allowed_cores = lambda: 6; torch.set_num_threads(6); ", {"OMP_NUM_THREADS": "3"}, 6),
    ],
)
def test_only_a_number_that_nobody_chose_is_lowered(
    before, environment, expected, monkeypatch, other_process
):
    for name in threads.CHOSEN_BY:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = LIMIT + SMALL + before + "limit_threads(); print(torch.get_num_threads())"
    done = other_process.run(code)
    assert (done.returncode, done.stdout.strip()) == (0, str(expected)), done.stderr
