"""Processes that end with this one, however it ends, and take with them all that they started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GUARD = Path(__file__).with_name("guard_script.py")


@contextmanager
def guarded_process(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Starts a command, and kills what is left of it at the end.

    Between the two stands a small process that holds the other end of a pipe, sees this one end
    even by SIGKILL, and then kills the group that the command and its children are in.

    Args:
        command: Program and arguments; no shell reads them.
        environment: Variables set on top of this process's own.
        options: As for `subprocess.Popen`.

    Raises:
        OSError: The program does not exist.
    """
    variables = {**os.environ, **(environment or {})}
    program = shutil.which(command[0], path=variables.get("PATH"))
    if program is None:
        raise FileNotFoundError(2, os.strerror(2), command[0])
    ours, theirs = os.pipe()  # neither is inherited unless it is passed
    try:
        # Isolated and without site-packages: it starts in some milliseconds.
        line = [sys.executable, "-I", "-S", str(GUARD), str(ours), *command]
        try:
            process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                env=variables,
                pass_fds=(ours,),
                start_new_session=True,
                text=True,
                errors="replace",
                **options,
            )
        finally:
            os.close(ours)
        with process:
            try:
                yield process
            finally:
                _kill_group(process)
    finally:
        os.close(theirs)


def _kill_group(process: subprocess.Popen[str]) -> None:
    """Kills what is left: the guard, the command, and children that outlived it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
