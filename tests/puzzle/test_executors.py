"""Claims about stages, runs and executors: the same bytes from every executor, and lost workers."""

import os
import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from puzzle.errors import DataError, PuzzleError, WorkspaceError
from puzzle.executors.executor import InProcess
from puzzle.executors.local_processes import Processes
from puzzle.library.build import BlockLibrary
from puzzle.library.layers import FittedLayer, LibrarySpec
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.models.parent import open_parent
from puzzle.scoring.exact_scores import ExactScores
from puzzle.scoring.fisher_scores import FisherConfig, FisherScores
from puzzle.scoring.gradient_sweep import GradientSweep
from puzzle.stages import Job, Run, execute
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import windows
from search_space import SearchSpace
from tests.factories.parents import DATA, opened, parent_model, text, tokenizer

CONFIG = LibraryConfig(bld=BLDConfig(tokens=128))


def run_of(saved, folder, executor=None):
    workspace, parent, _, cut = opened(saved, folder)
    return Run(workspace=workspace, parent=parent, windows=cut, executor=executor)


def fisher(space, library):
    config = FisherConfig(probes=2, rounds=1)
    return FisherScores(space=space, layers=library.refs, config=config)


def built(run):
    """Returns the bytes of every artifact of library and scores, by kind and name."""
    space = SearchSpace.preset(run.parent.shape, "small")
    library = run.get(BlockLibrary(spec=LibrarySpec(space=space, config=CONFIG)))
    scores = run.get(ExactScores(space=space, layers=library.refs)), run.get(fisher(space, library))
    root = run.workspace.root
    kinds = ("library-layer", "library-distilled", "replace-one", "fisher")
    files = [file for kind in kinds for file in root.glob(f"{kind}/*/*")]
    found = {str(f.relative_to(root)): f.read_bytes() for f in files if f.name != "manifest.json"}
    return found, scores


def test_one_process_and_two_write_the_same_bytes(saved, tmp_path):
    alone, scores = built(run_of(saved, tmp_path / "alone"))
    with Processes(2, threads=torch.get_num_threads()) as pool:
        spread, others = built(run_of(saved, tmp_path / "spread", pool))
    assert len(alone) == 3 * (2 + 2 + 1) + 1  # of each of three layers, and Fisher's round
    assert spread == alone
    assert others == scores


@pytest.mark.parametrize("executor", [InProcess(), ThreadPoolExecutor(1)])
def test_anything_with_submit_runs_the_jobs(saved, tmp_path, executor):
    alone, _ = built(run_of(saved, tmp_path / "alone"))
    other, _ = built(run_of(saved, tmp_path / "other", executor))
    assert other == alone


def test_a_job_is_a_pickled_value_of_a_few_kilobytes_and_opens_a_live_parent(tmp_path):
    workspace = Workspace(tmp_path / "run")
    parent = open_parent(
        parent_model(), workspace=workspace, tokenizer=tokenizer(), dtype="float32"
    )
    cut = windows(text(), parent.tokenizer, DATA)
    run = Run(workspace=workspace, parent=parent, windows=cut)
    space = SearchSpace.preset(parent.shape, "small")
    stage = FittedLayer(library=LibrarySpec(space=space), layer=1)
    job = Job(run=run.ref(), stage=stage)
    pickled = pickle.dumps(job)
    assert len(pickled) < 8192
    assert pickle.loads(pickled) == job
    assert execute(job) == run.artifact(stage).key
    assert run.artifact(stage).exists()


class LosesWorkers:
    """Runs jobs but some, which are lost, as when a worker is killed."""

    def __init__(self, lost):
        self.lost, self.submitted = lost, 0

    def submit(self, fn, *args):
        self.submitted += 1
        if self.submitted in self.lost:
            future = Future()
            future.set_result("")  # it says that it is done, and has written nothing
            return future
        return InProcess().submit(fn, *args)


def test_a_lost_job_is_submitted_again_because_the_artifact_says_done(saved, tmp_path, caplog):
    alone, _ = built(run_of(saved, tmp_path / "alone"))
    # Three layers are fitted, two of them twice, then scored exactly, and then by Fisher.
    workers = LosesWorkers({1, 3, 9, 10})
    other, _ = built(run_of(saved, tmp_path / "other", workers))
    assert other == alone
    assert workers.submitted == 3 * 3 + 4
    assert caplog.text.count("2 jobs were lost (attempt 1)") == 2


class Interrupted:
    """Runs a number of jobs; the next is interrupted, as by Ctrl-C."""

    def __init__(self, jobs):
        self.jobs = jobs

    def submit(self, fn, *args):
        if self.jobs == 0:
            raise KeyboardInterrupt
        self.jobs -= 1
        return InProcess().submit(fn, *args)


def test_fisher_scores_that_were_interrupted_go_on_without_another_pass(
    saved, tmp_path, monkeypatch
):
    run = run_of(saved, tmp_path)
    space = SearchSpace.preset(run.parent.shape, "small")
    library = run.get(BlockLibrary(spec=LibrarySpec(space=space)))
    expected, root = run.get(fisher(space, library)), run.workspace.root
    shutil.rmtree(root / "fisher")
    with pytest.raises(KeyboardInterrupt):
        replace(run, executor=Interrupted(1)).get(fisher(space, library))
    left = [*root.glob("gradient-boundary/*")]
    assert len(left) == 3
    assert len([*root.glob("fisher-layer/*")]) == 1

    def refuse(sweep):
        raise AssertionError("the parent was read again")

    with monkeypatch.context() as patched:
        patched.setattr(GradientSweep, "forward", refuse)
        assert replace(run, executor=InProcess()).get(fisher(space, library)) == expected
    assert not [*root.glob("gradient-boundary/*")]
    # What a job needs is made again if it is gone.
    for kind in ("fisher", "fisher-layer"):
        shutil.rmtree(root / kind)
    with pytest.raises(KeyboardInterrupt):
        replace(run, executor=Interrupted(0)).get(fisher(space, library))
    shutil.rmtree(left[0])
    assert replace(run, executor=InProcess()).get(fisher(space, library)) == expected


class Recorded:
    """Runs jobs in this process, and keeps them."""

    def __init__(self):
        self.jobs = []

    def submit(self, fn, *args):
        self.jobs += args
        return InProcess().submit(fn, *args)


def test_a_worker_that_stood_still_takes_what_others_made_meanwhile(saved, tmp_path):
    run, pool = run_of(saved, tmp_path), Recorded()
    space = SearchSpace.preset(run.parent.shape, "small")
    library = run.get(BlockLibrary(spec=LibrarySpec(space=space)))
    replace(run, executor=pool).get(fisher(space, library))
    stage, place = pool.jobs[0].stage, tmp_path / "late"
    place.mkdir()
    # Another search has ended the round, and deleted what this job would read.
    stage.build(run, place)
    (written,) = place.iterdir()
    assert written.read_bytes() == (run.artifact(stage).path / written.name).read_bytes()
    shutil.rmtree(run.artifact(stage).path)
    with pytest.raises(WorkspaceError, match=r"was deleted before .* run the search again"):
        stage.build(run, place)


def test_jobs_that_are_lost_again_and_again_end_the_run(saved, tmp_path):
    run = run_of(saved, tmp_path, LosesWorkers(range(100)))
    with pytest.raises(WorkspaceError, match=r"3 jobs .* lost 3 times"):
        built(run)


def test_a_pool_goes_on_after_a_process_was_killed():
    with Processes(1, threads=1) as pool:
        assert isinstance(pool.submit(os.abort).exception(), BrokenExecutor)
        assert pool.submit(max, 1, 2).result() == 2


def test_what_a_builder_raises_is_raised_by_the_run(saved, tmp_path):
    run = run_of(saved, tmp_path, InProcess())
    space = SearchSpace.preset(run.parent.shape, "small")
    library = run.get(BlockLibrary(spec=LibrarySpec(space=space)))
    with pytest.raises(DataError, match="allowed: kl, cosine"):
        run.get(ExactScores(space=space, layers=library.refs, distance="miles"))
    with pytest.raises(DataError, match="the run has none"):
        Run(workspace=run.workspace, parent=run.parent).get(
            BlockLibrary(spec=LibrarySpec(space=space))
        )


@pytest.mark.parametrize("count", [0, -1, True, 1.5])
def test_a_pool_of_no_processes_is_refused(count):
    with pytest.raises(PuzzleError, match="whole number of 1 or more"):
        Processes(count)


SLEEPER = """
import os, sys, time
from puzzle.executors import Processes
if __name__ == "__main__":
    with Processes(1, threads=1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600)
        if sys.argv[1] == "interrupted":
            raise KeyboardInterrupt
        time.sleep(600)
"""


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_workers_end_with_their_parent_in_the_middle_of_a_job(tmp_path, how):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "sleeper.py"), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with parent:
        worker = int(parent.stdout.readline())
        if how == "killed":
            parent.kill()
        parent.wait(120)
    for _ in range(500):
        if not psutil.pid_exists(worker) or psutil.Process(worker).status() == "zombie":
            return
        time.sleep(0.02)
    pytest.fail("the worker lives on")
