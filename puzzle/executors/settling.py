"""How submitted jobs end: with an artifact, with an error of their own, or with their worker."""

from __future__ import annotations

import copy
import logging
import socket
import time
import traceback
from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from puzzle.errors import WorkspaceError
from puzzle.storage.json_values import one_line

K = TypeVar("K", bound=Hashable)
# Seconds between looks at futures: at first, and at most.
FIRST_LOOK, LAST_LOOK = 0.01, 1.0
# Seconds between looks for artifacts that somebody else has written.
LOOK_FOR_ARTIFACTS = 10.0
# Seconds without any end after which it is said that nothing happens; doubled each time.
SILENCE = 300.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A job whose artifact exists.

    Args:
        key: The artifact's key.
        device: The kind of device that it was built on; empty where that is not known.
    """

    key: str
    device: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A job that raised an error, which it would raise again.

    Args:
        error: The error.
    """

    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A job whose worker ended, or whose machine had no memory left: it may end well elsewhere.

    Args:
        reason: What the executor says.
    """

    reason: str


Ending = Built | Failed | Lost


def portable(error: Exception) -> Exception:
    """Returns an error as it can be sent to another process, with where it was raised as a note."""
    where = "".join(traceback.format_tb(error.__traceback__))
    try:
        # An error is sent as it is copied: made again from what it says of itself.
        error = copy.copy(error)
    except Exception:  # noqa: BLE001 - an error of anybody's, made in any way
        error = WorkspaceError(f"{type(error).__name__}: {error}")
    error.add_note(f"on {socket.gethostname()}:\n{where}")
    return error


def settle(
    futures: Mapping[K, Any],
    *,
    exists: Callable[[K], bool],
    patience: float | None = None,
) -> Generator[tuple[K, Ending], None, None]:
    """Yields jobs as they end; the rest is cancelled when the iterator is closed.

    Args:
        futures: By job: anything with `done()`, `result()` and `cancel()`.
        exists: Whether a job's artifact is there, whoever built it.
        patience: Seconds without any end after which it is given up.

    Raises:
        WorkspaceError: The executor never answers.
    """
    waiting = dict(futures)
    pause, moved, looked, silence = FIRST_LOOK, time.monotonic(), time.monotonic(), SILENCE
    try:
        while waiting:
            ended = [job for job, future in waiting.items() if future.done()]
            for job in ended:
                yield job, _ending(waiting.pop(job))
            now = time.monotonic()
            if not ended and now - looked > LOOK_FOR_ARTIFACTS:
                looked = now
                ended = [job for job in waiting if exists(job)]
                for job in ended:
                    _cancel(waiting.pop(job))
                    yield job, Built(key="")
            if ended:
                pause, moved, silence = FIRST_LOOK, time.monotonic(), SILENCE
                continue
            if patience is not None and now - moved > patience:
                raise WorkspaceError(
                    f"the executor ended none of {len(waiting)} jobs in {patience:.0f} s; see "
                    "whether its workers run and have the processors, GPUs and memory that each "
                    "job asks for. Finished results are kept"
                )
            if now - moved > silence:
                silence *= 2
                logger.warning(
                    "no job has ended for %.0f minutes, and %d are waited for; see whether the "
                    "executor's workers run",
                    (now - moved) / 60,
                    len(waiting),
                )
            time.sleep(pause)
            pause = min(LAST_LOOK, 1.5 * pause)
    finally:
        for future in waiting.values():
            _cancel(future)


def _ending(future: Any) -> Ending:
    try:
        result = future.result()
    except Exception as error:  # noqa: BLE001 - each executor has errors of its own
        return Lost(reason=one_line(f"{type(error).__name__}: {error}", most=300))
    if isinstance(result, Built | Failed | Lost):
        return result
    return Lost(reason=f"it answered {one_line(repr(result), most=100)}")


def _cancel(future: Any) -> None:
    with suppress(Exception):
        future.cancel()
