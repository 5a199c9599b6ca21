"""Processes of this machine as an executor."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import Any, TypeVar

import torch

from puzzle.errors import PuzzleError
from puzzle.executors.on_worker import become_worker
from puzzle.storage.plain_values import count_of, plain

T = TypeVar("T")


class Processes:
    """A pool of processes of this machine, each with its share of the processor's cores.

    The same bytes come out as in one process where each process has as many threads as that one.

    Args:
        count: How many.
        threads: Threads of each; by default an equal share of those that torch has here.
        devices: Devices dealt out to the processes in rotation, such as ("cuda:0", "cuda:1"); by
            default all use that of the run.

    Raises:
        PuzzleError: The count is not positive.

    Example:
        >>> with Processes(2) as pool:  # doctest: +SKIP
        ...     puzzle.search(parent, text, constraints=["throughput >= 1.5x"], executor=pool)
    """

    def __init__(
        self, count: int, *, threads: int | None = None, devices: Sequence[str] = ()
    ) -> None:
        count = plain(count)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise PuzzleError(f"count={count!r} processes; give a whole number of 1 or more")
        self.count, self.devices = count, tuple(devices)
        share = max(1, torch.get_num_threads() // self.count)
        self.threads = share if threads is None else count_of("threads", threads, error=PuzzleError)
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Hands a call to a process; if one was killed, the pool is started again."""
        try:
            return self._started().submit(fn, *args)
        except BrokenExecutor:
            self.shutdown()
            return self._started().submit(fn, *args)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # A forked process would inherit OpenMP's threads in a state that hangs.
            context = multiprocessing.get_context("spawn")
            turns = context.Queue()
            for number in range(self.count):
                turns.put(self.devices[number % len(self.devices)] if self.devices else "")
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=context,
                initializer=_start_worker,
                initargs=(turns, self.threads),
            )
        return self._pool

    def shutdown(self) -> None:
        """Ends the processes; calls that have not started are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # Ctrl-C, or SIGTERM
            self._terminate()
        self.shutdown()

    def _terminate(self) -> None:
        """Ends the processes in the middle of their jobs, which nobody waits for any more."""
        for process in list(getattr(self._pool, "_processes", {}).values()):
            process.terminate()


def per_device() -> Processes:
    """Returns a pool with one process for each CUDA device.

    Raises:
        PuzzleError: torch sees no CUDA device.
    """
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if not names:
        raise PuzzleError("torch sees no CUDA device; use Processes(n) for processes on the CPU")
    return Processes(len(names), devices=names)


def _start_worker(turns: Any, threads: int) -> None:
    # A worker waits for jobs on a pipe that it holds itself, and so would outlive a killed parent.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    become_worker(turns.get(), threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
