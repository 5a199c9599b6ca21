"""Claims about processes that end with the one that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from puzzle.hardware import guarding
from puzzle.hardware.guarding import guarded_process

ROOT = Path(guarding.__file__).parents[2]
# Starts a child of its own, says both numbers, and would go on for a minute.
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(60)
"""
PARENT = """
import subprocess, sys
from puzzle.hardware.guarding import guarded_process
with guarded_process([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE) as process:
    print(process.stdout.readline(), flush=True)
    process.wait()
"""


def ended(number):
    """Whether a process is gone, or a zombie that nobody has asked after."""
    try:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_and_its_children_end_with_a_parent_that_is_killed(number):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, FAMILY],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with parent:
        numbers = list(map(int, parent.stdout.readline().split()))
        assert not any(map(ended, numbers))
        parent.send_signal(number)
        parent.wait()
    assert len(numbers) == 2
    assert wait_for(lambda: all(map(ended, numbers)))


def test_a_command_and_its_children_end_with_the_context():
    command = [sys.executable, "-c", FAMILY]
    with guarded_process(command, stdout=subprocess.PIPE) as process:
        numbers = list(map(int, process.stdout.readline().split()))
        assert not any(map(ended, numbers))
    assert wait_for(lambda: all(map(ended, numbers)))


@pytest.mark.parametrize("code", [0, 3, 255, -signal.SIGABRT, -signal.SIGKILL, -signal.SIGTERM])
def test_the_exit_code_is_that_of_the_command(code):
    ending = f"os.kill(os.getpid(), {-code})" if code < 0 else f"os._exit({code})"
    with guarded_process([sys.executable, "-c", f"import os; {ending}"]) as process:
        assert process.wait(30) == code


def test_arguments_environment_and_both_outputs_are_the_commands_own(tmp_path):
    code = "import os, sys; print(sys.argv[1:], os.environ['WORD'], os.getcwd());"
    code += "print('complaint', file=sys.stderr); print(sys.stdin.read() == '')"
    command = [sys.executable, "-c", code, "a b", "'\"$(c)"]
    pipe = subprocess.PIPE
    started = guarded_process(
        command, environment={"WORD": "w"}, stdout=pipe, stderr=pipe, cwd=tmp_path
    )
    with started as process:
        output, errors = process.communicate(timeout=30)
    assert output.splitlines() == [f"{['a b', command[-1]]} w {tmp_path}", "True"]
    assert errors == "complaint\n"


def test_a_program_that_does_not_exist_is_named():
    with (
        pytest.raises(FileNotFoundError, match="no-such-program"),
        guarded_process(["no-such-program"]),
    ):
        pytest.fail("it was started")
