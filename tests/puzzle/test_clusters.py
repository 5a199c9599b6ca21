"""Claims about clusters: the same bytes from Ray and submitit, and what workers refuse."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
import torch

from puzzle.errors import SettingError, WorkspaceError
from puzzle.executors import worker_checks
from puzzle.executors.executor import InProcess
from puzzle.executors.executor_words import executor_named
from puzzle.executors.settling import Built, Failed
from puzzle.executors.slurm_jobs import Slurm
from puzzle.library.build import BlockLibrary
from puzzle.library.layers import FittedLayer, LibrarySpec
from puzzle.library.variants import TENSORS
from puzzle.models import boundaries
from puzzle.models.parent import open_parent
from puzzle.stages import ArtifactStage, Job, perform
from puzzle.storage.versions import versions
from puzzle.storage.workspace import Workspace
from search_space import SearchSpace
from tests.factories.parents import parent_model, tokenizer
from tests.puzzle.test_executors import built, run_of

ROOT = Path(__file__).parents[2]
HOST = re.escape(socket.gethostname())


def job_of(searched, **changes):
    space = SearchSpace.preset(searched.parent.shape, "small")
    stage = FittedLayer(library=LibrarySpec(space=space), layer=0)
    return replace(Job(run=searched.ref(), stage=stage), **changes)


def test_a_worker_names_what_it_does_not_share_with_the_run(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(worker_checks, "ARRIVAL", 0.1)
    run = run_of(saved, tmp_path / "run")
    here, elsewhere = str(tmp_path), str(tmp_path / "elsewhere")
    parent = replace(run.ref().parent, directory=elsewhere)
    wrong = {
        "does not see the run directory": job_of(run, beacon=elsewhere),
        "and not the parent at": job_of(run, beacon=here, run=replace(run.ref(), parent=parent)),
        f"torch {versions()['torch']} instead of 1.0": job_of(run, versions=(("torch", "1.0"),)),
    }
    for message, job in wrong.items():
        ending = perform(job)
        assert isinstance(ending, Failed)
        assert message in str(ending.error)
    assert not any(run.artifact(job.stage).exists() for job in wrong.values())


def test_a_worker_without_room_for_temporary_files_names_their_place_and_leaves_nothing(
    saved, tmp_path, monkeypatch
):
    local, reserve = tmp_path / "local", boundaries._reserve
    run = run_of(saved, tmp_path / "run", InProcess())
    monkeypatch.setenv("PUZZLE_SCRATCH", str(local))

    def full(path, size):
        if path.is_relative_to(local):  # posix_fallocate names no file
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(path, size)

    job = job_of(run)
    with monkeypatch.context() as patched:
        patched.setattr(boundaries, "_reserve", full)
        ending = perform(job)
    assert isinstance(ending, Failed)
    assert isinstance(ending.error, WorkspaceError)
    there = rf"{local}: the disk is full: free space there or set PUZZLE_SCRATCH .* on {HOST}"
    assert re.search(there, str(ending.error))
    assert not run.artifact(job.stage).path.exists()
    assert not [*local.iterdir(), *(run.workspace.root / "tmp").iterdir()]
    assert isinstance(perform(job), Built)


class Elsewhere(InProcess):
    """Runs jobs in this process, and answers as a worker with another kind of device."""

    def submit(self, fn, *args):
        return super().submit(lambda: replace(fn(*args), device="NVIDIA L40S"))


def test_workers_with_other_devices_than_the_driver_are_named_or_refused(saved, tmp_path, caplog):
    run = run_of(saved, tmp_path, InProcess())
    run.build_all([Hungry(10)], unit="job")
    assert "several kinds" not in caplog.text
    replace(run, executor=Elsewhere()).build_all([Hungry(11)], unit="job")
    kinds = ", ".join(sorted(["NVIDIA L40S", worker_checks.device_kind("cpu")]))
    assert f"built on devices of several kinds ({kinds}), whose results differ" in caplog.text
    absent = replace(run.ref(), parent=replace(run.ref().parent, device="cuda:99"))
    ending = perform(job_of(run, run=absent))
    assert isinstance(ending, Failed)
    assert "cannot use 'cuda:99'" in str(ending.error)
    assert not run.artifact(job_of(run).stage).exists()


class Silent:
    """An executor whose jobs never end."""

    patience = 0.2

    def __init__(self):
        self.futures = []

    def submit(self, fn, *args):
        self.futures.append(Future())
        return self.futures[-1]


def test_an_executor_that_never_answers_is_given_up(saved, tmp_path):
    silent = Silent()
    with pytest.raises(WorkspaceError, match=r"ended none of 3 jobs .* Finished results are kept"):
        built(run_of(saved, tmp_path, silent))
    assert all(future.cancelled() for future in silent.futures)


@dataclass(frozen=True)
class Hungry(ArtifactStage[None]):
    """A stage for which there is memory when no other one is built at the same time."""

    kind: ClassVar[str] = "hungry"
    format: ClassVar[int] = 1
    number: int
    eating: ClassVar[list[int]] = []

    def key(self, run):
        return {"number": self.number}

    def build(self, run, directory):
        self.eating.append(self.number)
        try:
            for _ in range(20):
                time.sleep(0.005)
                if len(self.eating) > 1:
                    raise torch.OutOfMemoryError("no memory is left")
            (directory / "file").write_text("built")
        finally:
            self.eating.remove(self.number)

    def load(self, run, artifact):
        return None


def test_jobs_that_run_out_of_memory_together_are_run_one_after_another(saved, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        run = run_of(saved, tmp_path, pool)
        stages = [Hungry(number) for number in range(3)]
        assert all(artifact.exists() for artifact in run.build_all(stages, unit="job"))
    Hungry.eating.append(-1)  # somebody else takes the memory for good
    try:
        with pytest.raises(WorkspaceError, match=r"lost 3 times.*out of memory on .*no memory is"):
            replace(run, executor=InProcess()).build_all([Hungry(3)], unit="job")
    finally:
        Hungry.eating.clear()


def test_a_job_opens_the_parent_without_reading_its_weights(tmp_path):
    workspace = Workspace(tmp_path / "run")
    parent_model(vocab_size=62, intermediate_size=40_000).save_pretrained(tmp_path / "parent")
    tokenizer().save_pretrained(tmp_path / "parent")
    parent = open_parent(tmp_path / "parent", workspace=workspace, dtype="float32")
    size = (tmp_path / "parent" / "model.safetensors").stat().st_size
    ref = parent.ref(workspace)
    before = psutil.Process().io_counters().read_chars
    other = ref.open()
    assert other.identity == parent.identity
    assert psutil.Process().io_counters().read_chars - before < size / 50


@pytest.mark.parametrize(
    "word", ["rays", "processes:many", "processes:0", "slurm:partition", "slurm:partition=a,=1"]
)
def test_an_unknown_executor_is_refused_with_those_that_are_known(word):
    with pytest.raises(Exception, match=r"slurm:partition=h100|whole number of 1") as refused:
        executor_named(word)
    assert isinstance(refused.value, SettingError) or word == "processes:0"


def test_a_future_that_raises_is_a_lost_worker_and_its_reason_is_said(saved, tmp_path):
    class Broken:
        def submit(self, fn, *args):
            raised = Future()
            raised.set_exception(ConnectionError("node 7 went away"))
            return raised

    with pytest.raises(WorkspaceError, match="ConnectionError: node 7 went away"):
        built(run_of(saved, tmp_path, Broken()))


def fitted(run):
    """Returns the bytes of a library's files, by layer."""
    space = SearchSpace.preset(run.parent.shape, "small")
    library = run.get(BlockLibrary(spec=LibrarySpec(space=space)))
    return [(layer.path / TENSORS).read_bytes() for layer in library.layers]


@pytest.mark.slow
def test_submitit_writes_the_same_bytes_and_submits_a_preempted_job_again(saved, tmp_path):
    pytest.importorskip("submitit")
    alone = fitted(run_of(saved, tmp_path / "alone"))
    with Slurm(tmp_path / "logs", cluster="local", threads=torch.get_num_threads()) as queue:
        assert fitted(run_of(saved, tmp_path / "spread", queue)) == alone
        sleeper = queue.submit(sleep_unless_seen, str(tmp_path / "seen"))
        while not (tmp_path / "seen").exists():
            time.sleep(0.05)
        # What SLURM sends to a job before it preempts it.
        (task,) = psutil.Process(int(sleeper.job_id)).children(recursive=True)
        task.send_signal(signal.SIGUSR2)
        assert sleeper.result() == "again"
        left = queue.submit(time.sleep, 600)
    assert left.done(), "a process of this machine outlived its executor"


def sleep_unless_seen(path):
    if Path(path).exists():
        return "again"
    Path(path).touch()
    time.sleep(600)
    return "never"


RAY = """
import sys, torch
from pathlib import Path
from puzzle.executors.ray_tasks import Ray
from tests.puzzle.test_executors import built, run_of
torch.set_num_threads(1)
saved, place = Path(sys.argv[1]), Path(sys.argv[2])
options = dict(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000)
alone, scores = built(run_of(saved, place / "alone"))
with Ray("local", gpus=0, threads=1, **options) as cluster:
    print("started", flush=True)
    spread, others = built(run_of(saved, place / "spread", cluster))
assert spread == alone and others == scores
print("equal", flush=True)
"""


@pytest.mark.slow
def test_two_ray_workers_write_the_same_bytes_though_one_is_killed(saved, tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "driver.py").write_text(RAY)
    driver = subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py"), str(saved), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with driver:
        assert driver.stdout.readline() == "started\n"
        killed = None
        while killed is None:
            # Ray gives a worker the name of the task that it runs.
            for child in psutil.Process(driver.pid).children(recursive=True):
                if "call_on_worker" in " ".join(child.cmdline() or [child.name()]):
                    os.kill(killed := child.pid, signal.SIGKILL)
                    break
            time.sleep(0.02)
        # Ray reports the killed worker on the same stream.
        assert driver.stdout.readlines()[-1] == "equal\n"
