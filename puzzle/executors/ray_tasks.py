"""Ray as an executor: each call is a task, and a future of Ray's is one of `concurrent.futures`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from importlib import import_module
from typing import Any, TypeVar

import torch

from puzzle.errors import SettingError, WorkspaceError
from puzzle.executors.on_worker import call_on_worker

T = TypeVar("T")


class Ray:
    """Workers of a Ray cluster.

    Ray runs a task again whose worker was lost, and puzzle submits a job again that Ray gave up.

    Args:
        address: As for `ray.init`: "auto" or "host:6379" for a cluster that runs, "ray://host:10001"
            for one that is reached by Ray's client; by default Ray's own choice, which starts one
            on this machine if there is none.
        gpus: GPUs of each job; by default 1 if torch sees one here, else 0.
        cpus: Processors of each job.
        threads: Threads of each job; by default as many as torch has here.
        resource: What the node of a job has to have: one of `ray start --resources`, or what Ray
            finds out itself, such as "accelerator_type:H100"; a job takes a thousandth of it.
        retries: How often Ray runs a task again whose worker was lost.
        patience: Seconds without an end of any job after which a run gives up; by default none.
        options: More of `ray.init`, such as `runtime_env`.

    Raises:
        SettingError: Ray is not installed.
        WorkspaceError: The cluster cannot be reached.

    Example:
        >>> with Ray("auto", gpus=1) as cluster:  # doctest: +SKIP
        ...     puzzle.search(parent, text, constraints=limits, executor=cluster, out="/shared/run")
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        gpus: float | None = None,
        cpus: float = 1,
        threads: int | None = None,
        resource: str | None = None,
        retries: int = 3,
        patience: float | None = None,
        **options: Any,
    ) -> None:
        try:
            self._ray: Any = import_module("ray")
        except ImportError as error:
            raise SettingError("Ray is not installed here; pip install ray") from error
        self.patience = patience
        self._gpus = float(torch.cuda.is_available()) if gpus is None else gpus
        self._threads = threads or torch.get_num_threads()
        self._started = not self._ray.is_initialized()
        if self._started:
            try:
                self._ray.init(address=address, log_to_driver=False, **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise WorkspaceError(
                    f"no Ray cluster answers at {address!r} ({error}); start one with 'ray start "
                    "--head', or leave out the address for one on this machine"
                ) from error
        self._task = self._ray.remote(call_on_worker).options(
            num_cpus=cpus,
            num_gpus=self._gpus,
            max_retries=retries,
            resources=None if resource is None else {resource: 0.001},
        )

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Hands a call to the cluster."""
        # Ray shows a task no other GPU than its own, which is then the first one.
        device = "cuda:0" if self._gpus else ""
        future: Future[T] = self._task.remote(device, self._threads, fn, *args).future()
        return future

    def shutdown(self) -> None:
        """Leaves the cluster; one that was started here ends."""
        if self._started:
            self._ray.shutdown()

    def __enter__(self) -> Ray:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
