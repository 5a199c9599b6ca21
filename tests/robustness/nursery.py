"""A process that has imported all that a search needs, and forks one for each that is run.

Importing takes seconds and a tiny search tenths of one. It reads a list of runs from each line of
its input, forks a process for each, all at once, and answers with how each of them ended. It runs
no search itself: a process is forked safely as long as it has no threads of torch's.
"""

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from puzzle.errors import PuzzleError
from tests.robustness.operations import FAILURES, Operation, Watch
from tests.robustness.tiny_search import search_and_save, write_inputs

ROOT = Path(__file__).parents[2]
# A search takes a second, on a busy machine some more; what takes this long waits for ever.
MOST_SECONDS = 100


class Nursery:
    """The process, seen from a test.

    Args:
        directory: Where inputs are written, and one directory for each run or several.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = (directory / "log.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.robustness.nursery", str(directory)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def run(self, *runs: dict) -> list[dict]:
        """Returns how runs ended that were started together; see `_search` for what they are."""
        self.process.stdin.write(json.dumps(runs) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def serve(directory: Path) -> None:
    """Runs what is read from stdin, until it ends."""
    write_inputs(directory / "inputs")
    answers, sys.stdout = sys.stdout, sys.stderr
    known = set(sys.modules)
    [first] = _together(directory, [{"name": "whole", "modules": True}])
    for name in sorted(set(first.pop("modules")) - known):
        if ".cython" not in name and not name.startswith("_"):
            importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_together(directory, json.loads(line))), file=answers, flush=True)


def _together(directory: Path, runs: list[dict]) -> list[dict]:
    started = []
    for number, run in enumerate(runs):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            with open(writing, "w") as answer:
                json.dump(_search(directory, run), answer)
            os._exit(0)
        os.close(writing)
        started.append((number, pid, reading))
    ends = []
    for _, pid, reading in started:
        with open(reading) as answer:
            text = answer.read()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        ends.append({"code": code, **(json.loads(text) if text else {})})
    return ends


def _search(directory: Path, run: dict) -> dict:
    """Runs a search in `directory / run["name"]`; what is said of its operations is optional.

    Args:
        directory: That of the nursery.
        run: `name`; `list`, to return the operations; `kill` or `cut`, the number of the operation
            before which it is killed or the power is cut; `fail`, of the one that fails.
    """
    signal.alarm(MOST_SECONDS)
    place = directory / run["name"]
    (place / "system").mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(place / "system")
    operations: list[Operation] = []
    ending: dict = {}

    def before(operation: Operation) -> None:
        number = len(operations)
        operations.append(operation)
        if number in (run.get("kill"), run.get("cut")):
            if "cut" in run:
                watch.lose_unsynced(place)
            os.kill(os.getpid(), signal.SIGKILL)
        if number == run.get("fail"):
            choices = FAILURES[operation.name]
            code = choices[number % len(choices)]
            ending.update(failed=operation.kind, errno=errno.errorcode[code])
            raise OSError(code, os.strerror(code))

    watch = Watch([place, directory / "inputs"], before) if len(run) > 1 else None
    try:
        search_and_save(directory / "inputs", place)
    except Exception as error:  # noqa: BLE001 - what it is, the test judges
        traceback.print_exc()
        ending["error"] = f"{type(error).__name__}: {error}"
        ending["expected"] = isinstance(error, PuzzleError | OSError)
    if "list" in run:
        ending["operations"] = [(*o.kind, o.changes) for o in operations]
    if "modules" in run:
        ending["modules"] = list(sys.modules)
    return ending


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
