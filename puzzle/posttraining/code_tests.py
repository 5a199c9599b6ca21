"""CodeTests: answers that are programs, run against tests within limits."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puzzle.errors import DataError, EngineError
from puzzle.posttraining import sandbox_script
from puzzle.storage.plain_values import count_of
from puzzle.storage.temporary_places import temporary_place

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeTests:
    """A scorer of Python programs: 1 if every test passes, else 0.

    The program is the last block of code in an answer, or all of it. It runs in a process of its
    own with the standard library, without writing to a disk, starting processes or threads, or
    connecting to anything, and is ended at its limits. This holds on Linux; where processes cannot
    be limited, it is refused. It does not hide the tests from a program that looks for them.

    Args:
        seconds: The most time that one run may take.
        memory_mb: The most memory.
        output_kb: The most that it may print.

    Raises:
        SettingError: A limit is not allowed.

    Example:
        >>> CodeTests()("def f(x): return x + 1", "assert f(1) == 2")
        1.0
    """

    seconds: int = 10
    memory_mb: int = 512
    output_kb: int = 64

    def __post_init__(self) -> None:
        for name in ("seconds", "memory_mb", "output_kb"):
            count_of(name, getattr(self, name))

    def __call__(self, answer: str, tests: Any) -> float:
        """Returns whether a program passes its tests.

        Args:
            answer: What a model answered.
            tests: Python with assertions, which runs after the program; or a list of mappings with
                `input` and `output`, what it is given and what it has to print.

        Raises:
            DataError: The tests are something else.
            EngineError: The limits do not hold on this system.
        """
        blocks = _BLOCK.findall(answer)
        code = blocks[-1] if blocks else answer
        if isinstance(tests, str):
            end = secrets.token_hex(16)
            # A program that ends before its tests, whatever its exit code, has not passed them.
            program = f"{code}\n\n{tests}\n\nprint()\nprint({end!r})\n"
            printed = self._printed(program, "")
            return float(printed is not None and printed.rstrip().endswith(end))
        if not isinstance(tests, list | tuple) or not all(map(_is_pair, tests)) or not tests:
            raise DataError(
                f"tests are {tests!r:.80}; give assertions as text, or a list of mappings with "
                "'input' and 'output'"
            )
        for test in tests:
            printed = self._printed(code, str(test["input"]))
            if printed is None or printed.split() != str(test["output"]).split():
                return 0.0
        return 1.0

    def _printed(self, program: str, given: str) -> str | None:
        """Returns what a program prints, None if it fails or goes beyond a limit."""
        with temporary_place() as place:
            file = Path(place) / "program.py"
            file.write_text(program, encoding="utf-8", errors="replace")
            process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-B", os.path.abspath(sandbox_script.__file__)),
                    *(str(self.seconds), str(self.memory_mb * 2**20), str(file)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=place,
                env={"PATH": os.defpath, "PYTHONIOENCODING": "utf-8"},
                start_new_session=True,
            )
            text, code = self._outcome(process, given)
        if code == sandbox_script.UNLIMITED:
            raise EngineError(
                "programs cannot be kept from starting others on this system: run the tests of "
                "code on Linux"
            )
        return text if code == 0 else None

    def _outcome(self, process: subprocess.Popen[bytes], given: str) -> tuple[str, int]:
        assert process.stdin is not None
        assert process.stdout is not None
        most = self.output_kb * 1024
        timer = threading.Timer(self.seconds, process.kill)
        timer.start()
        writer = threading.Thread(target=_write, args=(process.stdin, given), daemon=True)
        writer.start()
        try:
            text = process.stdout.read(most + 1)
            if len(text) > most:
                process.kill()
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            writer.join()
            process.stdout.close()
        return text.decode(errors="replace"), code


def _is_pair(test: Any) -> bool:
    return isinstance(test, Mapping) and {"input", "output"} <= test.keys()


def _write(pipe: Any, text: str) -> None:
    try:
        pipe.write(text.encode())
        pipe.close()
    except OSError:
        return  # the program ended without reading it
