"""Python in another process, forked from one that has imported what all of them import.

Importing torch and transformers takes seconds of each test that needs a process to kill, to
interrupt or to load in afresh. The process that forks imports nothing of puzzle, so that what a
test says of importing puzzle holds, and it has no threads of torch's.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Parts that these load only when they are used are named.
IMPORTED = """torch transformers transformers.generation transformers.trainer_callback
transformers.models.llama.modeling_llama transformers.models.auto.modeling_auto
transformers.integrations datasets accelerate scipy.optimize highspy pulp tokenizers"""


class OtherProcess:
    """The process that forks, seen from a test.

    Args:
        directory: For what the forked ones print, and for the modules that transformers copies.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.count = directory, 0
        self.log = (directory / "log.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.factories.other_process"],
            cwd=ROOT,
            env={**os.environ, "HF_MODULES_CACHE": str(directory / "modules")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def run(self, code: str, *arguments: object) -> subprocess.CompletedProcess:
        """Runs code as `python -c` does, in the current directory; returns how it ended."""
        self.count += 1
        files = [self.directory / f"{self.count}.{name}" for name in ("out", "err")]
        words = ["-c", *map(str, arguments)]
        request = {"code": code, "argv": words, "cwd": str(Path.cwd()), "env": dict(os.environ)}
        self.process.stdin.write(json.dumps({**request, "files": list(map(str, files))}) + "\n")
        self.process.stdin.flush()
        ended = int(self.process.stdout.readline())
        out, err = (file.read_text() for file in files)
        return subprocess.CompletedProcess(words, ended, out, err)

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def serve() -> None:
    """Runs what is read from stdin, one after the other, until it ends."""
    for name in IMPORTED.split():
        importlib.import_module(name)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        sys.stdout.flush()


def _become(request: dict) -> None:
    nowhere = os.open(os.devnull, os.O_RDONLY)
    new = [nowhere, *(os.open(file, os.O_CREAT | os.O_WRONLY) for file in request["files"])]
    for number, file in enumerate(new):
        os.dup2(file, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv, sys.path[0], code = request["argv"], "", 1
    sys.path.insert(1, str(ROOT))
    try:
        exec(compile(request["code"], "<code>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter itself does
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
