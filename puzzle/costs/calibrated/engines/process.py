"""Running a command that may crash or hang, with its log kept."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from puzzle.errors import EngineError
from puzzle.hardware.guarding import guarded_process

LOG_LINES = 12


def run_command(
    command: Sequence[str],
    *,
    timeout: float,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Runs a command and returns its standard output; standard error is appended to a log.

    Args:
        command: Program and arguments; no shell is involved.
        timeout: Seconds after which the command and all that it started are killed.
        log: File to which the command line and stderr are appended; it is kept.
        environment: Variables set on top of this process's own.

    Raises:
        EngineError: The program does not exist, ended with an error or ran out of time; the
            message holds the end of the log and says where the whole log is.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as errors:
        errors.write(f"$ {' '.join(command)}\n")
        errors.flush()
        try:
            started = guarded_process(
                command, environment=environment, stdout=subprocess.PIPE, stderr=errors
            )
            with started as process:
                output, _ = process.communicate(timeout=timeout)
        except OSError as error:
            raise EngineError(
                f"{command[0]!r} cannot be run ({error}); it must be a program on the PATH or a "
                "path: install it or correct the command"
            ) from error
        except subprocess.TimeoutExpired:
            raise EngineError(
                f"{command[0]} gave no answer in {timeout:g} s and was stopped; raise timeout= "
                f"or see what it waits for.{_end_of(log)}"
            ) from None
        errors.write(output)
    if process.returncode:
        raise EngineError(f"{command[0]} {_ending(process.returncode)}.{_end_of(log)}")
    return output


def _ending(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    tail = "\n".join(lines[-LOG_LINES:])
    return f" Its log is {log}" + (f"; the end of it:\n{tail}" if tail else " and is empty")


def last_json(output: str, who: str) -> dict[str, Any]:
    """Returns the JSON object on the last line of an output that holds one.

    Raises:
        EngineError: There is none, or it holds NaN or an infinity.
    """
    for line in reversed(output.splitlines()):
        if not line.lstrip().startswith("{"):
            continue
        try:
            parsed = json.loads(line)
        except ValueError:
            continue
        _refuse_non_finite(parsed, line, who)
        return parsed
    raise EngineError(
        f"{who} printed no JSON object on a line of its own; its output ends with "
        f"{output[-200:]!r}: print the measurement as one line of JSON"
    )


def _refuse_non_finite(value: Any, line: str, who: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise EngineError(
            f"{who} printed {line.strip()[:200]!r}; only finite numbers are measurements: look "
            "for a division by a time of zero, or a run that generated nothing"
        )
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        _refuse_non_finite(item, line, who)
