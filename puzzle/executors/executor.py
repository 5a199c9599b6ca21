"""What an executor is: anything with `submit(fn, *args) -> Future`, as in `concurrent.futures`.

Jobs are pickled values of some kilobytes, and their results are artifacts in the workspace: a
worker that is killed costs its own job, and one that runs twice harms nothing. Of a future, only
`done()`, `result()` and `cancel()` are called, so that those of submitit and dask are as good.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Executor(Protocol):
    """Anything that runs functions and returns futures of their results.

    One with an attribute `patience`, in seconds, is given up when no job ended for so long.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Starts a call, now or when a worker is free."""
        ...


class InProcess:
    """Runs each call at once in this process.

    Example:
        >>> InProcess().submit(max, 1, 2).result()
        2
    """

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Runs the call; its future is done when this returns."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:  # noqa: BLE001 - a future holds whatever a call raises
            future.set_exception(error)
        return future
