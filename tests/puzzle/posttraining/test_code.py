"""Claims about programs that are run for a reward: what passes, and what they cannot do."""

import struct
import time

import pytest

from puzzle.errors import DataError
from puzzle.posttraining.code_tests import CodeTests
from puzzle.posttraining.sandbox_script import (
    CONDITIONAL,
    FORBIDDEN,
    filter_program,
)

RUN = CodeTests(seconds=5, memory_mb=256)
RIGHT = "def f(x):\n    return x + 1\n"


@pytest.mark.parametrize(
    ("answer", "tests", "score"),
    [
        (RIGHT, "assert f(1) == 2", 1),
        (f"First\n```\nno code\n```\nthen\n```python\n{RIGHT}```\n", "assert f(1) == 2", 1),
        (RIGHT, "assert f(1) == 3", 0),
        (RIGHT, [{"input": "", "output": ""}], 1),
        ("print(int(input()) + 1)", [{"input": "1\n", "output": "2"}], 1),
        ("print(2)", [{"input": "1", "output": "2"}, {"input": "2", "output": "3"}], 0),
        ("import sys; sys.exit(0)", "assert False", 0),
        ("import os; os._exit(0)", "assert False", 0),
        ("import json, math, re, itertools", "assert math.gcd(4, 6) == 2", 1),
    ],
)
def test_a_program_that_passes_its_tests_scores_1_and_no_other_does(answer, tests, score):
    assert RUN(answer, tests) == score


FORK_BOMB = (
    "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        raise"
)
HARM = {
    "forks": FORK_BOMB,
    "starts a program": "import subprocess\nsubprocess.run(['true'])",
    "starts a thread": "import threading\nthreading.Thread(target=print).start()",
    "writes a file": "open('PLACE', 'w')",
    "adds to a file": "open('PLACE', 'a').write('x')",
    "deletes a file": "import os\nos.unlink('PLACE')",
    "renames a file": "import os\nos.rename('PLACE', 'PLACE2')",
    "makes a directory": "import os\nos.mkdir('PLACE2')",
    "connects": "import socket\nsocket.socket()",
    "kills": "import os\nos.kill(os.getppid(), 0)",
    "lifts its limits": "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))",
    "fills memory": "x = bytearray(2**29)",
}


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARM)
def test_a_program_cannot_do_harm(harm, tmp_path):
    place = tmp_path / "place"
    place.write_text("kept")
    code = HARM[harm].replace("PLACE", str(place))
    caught = f"try:\n    exec({code!r})\nexcept (OSError, RuntimeError, MemoryError, ValueError):"
    assert RUN(f"{caught}\n    print('refused')", [{"input": "", "output": "refused"}]) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["place"]
    assert place.read_text() == "kept"


@pytest.mark.slow
def test_a_program_that_never_ends_or_prints_without_end_is_ended():
    start = time.monotonic()
    quick = CodeTests(seconds=1, output_kb=1)
    assert quick("while True: pass", "") == 0
    assert quick("while True: print('x' * 99)", "") == 0
    assert quick("import time; time.sleep(99)", "") == 0
    assert time.monotonic() - start < 60
    with pytest.raises(DataError, match="tests are 3"):
        RUN(RIGHT, 3)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_what_it_lists_and_allows_the_rest(machine):
    steps = list(struct.iter_unpack("HBBI", filter_program(machine)))
    column = ["x86_64", "aarch64"].index(machine)
    architecture = [0xC000003E, 0xC00000B7][column]

    def judged(number, arguments=(0,) * 6, own=architecture):
        """What a kernel that reads the filter answers."""
        words = {0: number, 4: own, **{16 + 8 * n: value for n, value in enumerate(arguments)}}
        place, loaded = 0, 0
        while True:
            code, yes, no, value = steps[place]
            if code == 0x06:
                return {0x7FFF0000: "allowed", 0x00050001: "refused", 0x80000000: "killed"}[value]
            place += 1
            if code == 0x20:
                loaded = words[value]
                continue
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}
            place += yes if holds[code] else no

    refused = {numbers[column] for numbers in FORBIDDEN.values()} - {None}
    conditional = {numbers[column]: (place, bits) for numbers, place, bits in CONDITIONAL.values()}
    for number in range(500):
        if number not in conditional:
            assert judged(number) == ("refused" if number in refused else "allowed")
    for number, (place, bits) in conditional.items():
        if number is not None:
            assert judged(number) == "allowed"
            assert judged(number, [bits if n == place else 0 for n in range(6)]) == "refused"
    assert judged(0, own=1) == "killed"
    assert judged(0x40000000) == "refused"
