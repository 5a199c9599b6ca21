"""LimitedScorer: a scorer in a process of its own, ended where it takes too long."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import warnings
import weakref
from collections import Counter
from typing import Any

from puzzle.errors import DataError
from puzzle.evaluation.answers import Scorer
from puzzle.storage.json_values import as_number

logger = logging.getLogger(__name__)
SECONDS = 10.0
_REMEMBERED = 4096
# A fork has whatever function it is given. Elsewhere it would be unsafe, and functions have to be
# found by their name.
_CONTEXT = "fork" if sys.platform == "linux" else "spawn"


class LimitedScorer:
    """A scorer whose failures are counted and cost no more than some seconds.

    It runs in a process of its own. One that raises, takes longer than it may or returns no finite
    number scores 0. The last answers are remembered, as several rewards need the same ones. It
    can be pickled where the scorer can; a copy starts a process of its own.

    Args:
        scorer: Given an answer and the right one.
        seconds: The most that one call may take.

    Raises:
        DataError: The limit is not above 0.

    Example:
        >>> scorer = LimitedScorer(lambda answer, right: 1 / 0)
        >>> scorer("2", "2"), dict(scorer.failures)
        (0.0, {'raised': 1})
    """

    def __init__(self, scorer: Scorer, *, seconds: float = SECONDS) -> None:
        if not as_number(seconds, "seconds") > 0:
            raise DataError(f"seconds={seconds!r}; allowed: numbers above 0")
        self.scorer, self.seconds = scorer, float(seconds)
        self.failures: Counter[str] = Counter()
        self._known: dict[tuple[str, str], tuple[float, str]] = {}
        self._process: Any = None
        self._pipe: Any = None
        self._owner = os.getpid()
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return _remade, (self.scorer, self.seconds)

    def __call__(self, answer: str, right: Any) -> float:
        """Returns the score of an answer; 0 where the scorer fails."""
        return self.judge(answer, right)[0]

    def judge(self, answer: str, right: Any, *, name: str = "") -> tuple[float, str]:
        """Returns the score of an answer, and how the scorer failed: "" if it did not.

        Args:
            answer: What a model answered.
            right: What it is compared with.
            name: What to call it in the log.
        """
        key = (answer, repr(right))
        if key in self._known:
            return self._known[key]
        while len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        verdict = self._known[key] = self._judged(answer, right, name)
        return verdict

    def _judged(self, answer: str, right: Any, name: str) -> tuple[float, str]:
        with self._lock:
            reply = self._ask(answer, right)
        if reply is None:
            kind, reason = "timed out", f"it takes more than {self.seconds:g} seconds, or crashes"
        elif isinstance(reply, str):
            kind, reason = "raised", reply
        elif not math.isfinite(reply):
            kind, reason = "not finite", f"it returns {reply}"
        else:
            return reply, ""
        self.failures[kind] += 1
        logger.warning("the scorer failed at %s: %s", name or f"{answer!r:.60}", reason)
        return 0.0, kind

    def close(self) -> None:
        """Ends the process; the next call starts another."""
        with self._lock:
            self._end()

    def _ask(self, answer: str, right: Any) -> float | str | None:
        """Returns the score, what the scorer raised, or None if it was ended."""
        if self._owner != os.getpid():  # a fork: the process is our parent's
            self._process, self._owner = None, os.getpid()
        if self._process is None:
            self._start()
        try:
            self._pipe.send((answer, right))
            if self._pipe.poll(self.seconds):
                reply: float | str = self._pipe.recv()
                return reply
        except (EOFError, OSError):
            logger.debug("the process of the scorer died")
        except BaseException:  # a reply that nobody waited for must not be the next one's
            self._end()
            raise
        self._end()
        return None

    def _start(self) -> None:
        context: Any = multiprocessing.get_context(_CONTEXT)
        self._pipe, own = context.Pipe()
        # A fork has our end of the pipe as well, and would never see that it is closed.
        ours = self._pipe if _CONTEXT == "fork" else None
        process = context.Process(target=_answer, args=(self.scorer, own, ours), daemon=True)
        with warnings.catch_warnings():
            # Of threads that are not in the fork: the scorer has none of their locks.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        own.close()
        self._process = process
        self._stop = weakref.finalize(self, _stop, process, self._pipe, os.getpid())

    def _end(self) -> None:
        if self._process is not None:
            self._process = None
            self._stop()


def _answer(scorer: Scorer, pipe: Any, other: Any) -> None:
    """Sends the score of each pair that comes, in the process of the scorer."""
    if other is not None:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            pair = pipe.recv()
        except (EOFError, OSError):
            return
        reply: float | str
        try:
            reply = float(scorer(*pair))
        except Exception as error:  # noqa: BLE001 - whatever a task's own code raises is reported
            reply = f"{type(error).__name__}: {error}"[:300]
        pipe.send(reply)


def _stop(process: Any, pipe: Any, owner: int) -> None:
    if owner == os.getpid():
        pipe.close()
        process.kill()
        process.join()
        process.close()


def _remade(scorer: Scorer, seconds: float) -> LimitedScorer:
    return LimitedScorer(scorer, seconds=seconds)
