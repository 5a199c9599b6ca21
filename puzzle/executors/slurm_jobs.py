"""SLURM as an executor, through submitit: each call is a job of the queue."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeVar

import psutil
import torch

from puzzle.errors import SettingError
from puzzle.executors.on_worker import call_on_worker
from puzzle.storage.paths import user_path

T = TypeVar("T")


class Slurm:
    """Jobs of a SLURM queue.

    A job that is preempted or reaches its time limit is submitted again by submitit, and one that
    was lost by puzzle.

    Args:
        folder: Where submitit writes scripts and logs; on the file system that all nodes share.
        cluster: "slurm"; or "local" for processes of this machine, to try out.
        gpus: GPUs of each job; by default 1 if torch sees one here, else 0.
        threads: Threads of each job; by default as many as torch has here.
        retries: How often submitit submits a job again that reached its time limit.
        patience: Seconds without an end of any job after which a run gives up; by default none,
            because a queue may be long.
        parameters: As for submitit's `update_parameters`: `timeout_min`, `mem_gb`,
            `slurm_partition`, `slurm_account` and so on.

    Raises:
        SettingError: submitit is not installed, there is no such cluster, or a parameter is wrong.

    Example:
        >>> queue = Slurm("/shared/logs", slurm_partition="h100", timeout_min=120)  # doctest: +SKIP
        >>> puzzle.search(parent, text, constraints=limits, executor=queue)  # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] = "puzzle-slurm",
        *,
        cluster: str = "slurm",
        gpus: int | None = None,
        threads: int | None = None,
        retries: int = 3,
        patience: float | None = None,
        **parameters: Any,
    ) -> None:
        try:
            submitit: Any = import_module("submitit")
        except ImportError as error:
            raise SettingError("submitit is not installed here; pip install submitit") from error
        self.patience = patience
        self._local = cluster == "local"
        self._jobs: list[Any] = []
        self._gpus = int(torch.cuda.is_available()) if gpus is None else gpus
        self._threads = threads or torch.get_num_threads()
        given = {"timeout_min": 60, "cpus_per_task": self._threads, **parameters}
        if self._gpus:
            given["gpus_per_node"] = self._gpus
        try:
            self._queue = submitit.AutoExecutor(
                folder=user_path(folder), cluster=cluster, slurm_max_num_timeout=retries
            )
            self._queue.update_parameters(**given)
        except (RuntimeError, ValueError, TypeError, NameError, KeyError) as error:
            raise SettingError(f"submitit cannot submit to {cluster!r}: {error}") from error

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Any:
        """Queues a call."""
        device = "cuda:0" if self._gpus else ""
        job = self._queue.submit(Queued(device, self._threads), fn, *args)
        if self._local:
            # An artifact may be there before the process that wrote it has ended, and a process
            # whose job is dropped while it runs is never waited for.
            self._jobs = [other for other in self._jobs if not other.done()] + [job]
        return job

    def __enter__(self) -> Slurm:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the processes of this machine; jobs of a queue are left to it."""
        for job in self._jobs:
            if not job.done():
                _kill(int(job.job_id))
            job.wait()


def _kill(number: int) -> None:
    """Ends a process and those that it started.

    SIGINT does not: what a shell runs in the background ignores it.
    """
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(number)
        parent.suspend()  # so that it starts no more
        for each in (*parent.children(recursive=True), parent):
            with suppress(psutil.NoSuchProcess):
                each.kill()


class Queued:
    """A call that submitit may submit again: it starts anew, and what is stored is not repeated."""

    def __init__(self, device: str, threads: int) -> None:
        self.device, self.threads = device, threads

    def __call__(self, fn: Callable[..., T], *args: Any) -> T:
        """Runs the call as a worker."""
        return call_on_worker(self.device, self.threads, fn, *args)

    def checkpoint(self, fn: Callable[..., T], *args: Any) -> Any:
        """Returns what submitit queues in place of a preempted job."""
        return import_module("submitit").helpers.DelayedSubmission(self, fn, *args)
