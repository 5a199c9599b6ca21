"""Claims about how commands end: on a signal, and when nobody reads what they print."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import puzzle
from puzzle.cli import main
from puzzle.cli.interruption import Terminated, exit_code, signals_interrupt

ROOT = Path(puzzle.__file__).parents[1]
LAYOUTS = "from puzzle.cli import main; import sys; sys.exit(main(['layouts']))"
# A command that has a temporary place and a worker's leftover when the signal comes.
SIGNALLED = """
import os, sys
from pathlib import Path
from puzzle.cli import main
from puzzle.cli.commands import devices_command
from puzzle.storage.temporary_places import temporary_place

def devices():
    with temporary_place(Path(sys.argv[1])) as place:
        (place / "weights").write_text("half")
        worker = os.fork()
        if not worker:
            held = temporary_place(Path(sys.argv[1]))
            held.__enter__()
            os._exit(0)
        os.waitpid(worker, 0)
        assert len(os.listdir(sys.argv[1])) == 2
        os.kill(os.getpid(), int(sys.argv[2]))

devices_command.puzzle.devices = devices
sys.exit(main(["devices"]))
"""


def environment(**variables):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_command_with_its_own_code_and_nothing_is_left_behind(
    tmp_path, number, code
):
    default = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    done = subprocess.run(
        [sys.executable, "-c", default + SIGNALLED, str(tmp_path), str(int(number))],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.endswith("interrupted; the same command resumes from here\n")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_handlers_of_others_stay_and_ours_go():
    def theirs(number, frame):
        pass

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with signals_interrupt():
            assert signal.getsignal(signal.SIGTERM) is theirs
            assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert exit_code(KeyboardInterrupt()) == 130
    assert exit_code(Terminated(signal.SIGTERM)) == 143


def test_a_closed_pipe_ends_a_finished_command_well():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", LAYOUTS],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_messages_to_a_closed_pipe_end_no_command(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    code = "import sys, tqdm\nfrom puzzle.cli import main\nfrom puzzle.cli.commands import "
    code += "devices_command\ndef devices():\n    for _ in tqdm.tqdm(range(3), mininterval=0):\n"
    code += "        print('message', file=sys.stderr, flush=True)\n    return []\n"
    code += "devices_command.puzzle.devices = devices\nsys.exit(main(['devices', '--json']))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writing, env=environment()
    )
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"[]\n")


@pytest.mark.parametrize("arguments", [["layouts", "llama-3.3-nemotron-super-49b-v1"], ["--help"]])
def test_an_ascii_terminal_gets_every_letter_it_has(arguments):
    code = (
        "import sys\nfrom puzzle.cli import main\nfrom puzzle.cli.commands import layouts_command"
    )
    code += (
        "\nanswer = layouts_command.Answer\nlayouts_command.Answer = lambda values, text: answer("
    )
    code += f"values=values, text='\\u2264 ' + text)\nsys.exit(main({arguments!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env=environment(PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\\u2264 Layout" if arguments[0] == "layouts" else b"usage")
    assert not done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_answer_that_the_disk_refuses_is_an_error_in_words():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LAYOUTS],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: done, but the answer cannot be printed")
    assert "Traceback" not in done.stderr


def test_streams_are_the_callers_own_again_afterwards(capsys):
    before = sys.stdout, sys.stderr
    assert main(["layouts"]) == 0
    assert (sys.stdout, sys.stderr) == before
    assert "llama" in capsys.readouterr().out
