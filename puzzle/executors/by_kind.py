"""Several executors as one: each runs the jobs that are for its kind of device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from puzzle.errors import SettingError
from puzzle.executors.executor import Executor


class ByKind:
    """Hands each job to the executor of the kind of device that its stage names in `device`.

    Args:
        executors: By the name of the kind.

    Raises:
        SettingError: There is none.

    Example:
        >>> queues = ByKind({"h100": hopper, "l40s": ada})  # doctest: +SKIP
    """

    def __init__(self, executors: Mapping[str, Executor]) -> None:
        if not executors:
            raise SettingError("no kinds of devices; give an executor for each, by name")
        self.executors = dict(executors)
        # Given up only where every executor is: one that has none may have a long queue.
        limits = [getattr(each, "patience", None) for each in self.executors.values()]
        self.patience = max(math.inf if each is None else float(each) for each in limits)

    def submit(self, fn: Callable[..., Any], job: Any, /) -> Any:
        """Hands a job over."""
        return self.executors[job.stage.device].submit(fn, job)
