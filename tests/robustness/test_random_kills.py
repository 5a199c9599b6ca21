"""Killed at any moment, a search on the command line goes on to the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import puzzle
from tests.factories.parents import text
from tests.robustness.results import contents, difference, finished
from tests.robustness.tiny_search import DATA, write_inputs

KILLS, SHARES = 50, 5
COMMAND = [
    *(sys.executable, "-m", "puzzle.cli", "search", "parent", "--text", "text.txt", "--out", "run"),
    *("--constraint", "parameters <= 0.8x", "--effort", "fast", "--hardware", "roofline:h100-sxm"),
    *("--dtype", "float32", "--device", "cpu", "--batch", "2", "--prompt-tokens", "4"),
    *("--generated-tokens", "4", "--window", str(DATA.window)),
    *("--fit-tokens", str(DATA.fit_tokens), "--score-tokens", str(DATA.score_tokens)),
    *("--validation-tokens", str(DATA.validation_tokens)),
]


def errors_of(place):
    return place.with_name("errors")


def started(place, *options):
    """Returns the process of a search that has begun."""
    environment = {**os.environ, "PYTHONPATH": str(Path(puzzle.__file__).parents[1])}
    with errors_of(place).open("w") as errors:
        process = subprocess.Popen(
            [*COMMAND, *options],
            cwd=place,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    # What comes before is the import of torch.
    while not (place / "run").exists() and process.poll() is None:
        time.sleep(0.001)
    return process


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return whole_inputs(tmp_path_factory.mktemp("inputs") / "place")


def whole_inputs(place):
    """Writes the parent and the text of a search into a new directory, and returns it."""
    place.mkdir()
    write_inputs(place)
    (place / "text.txt").write_text("\n\n".join(text(count=12)), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """What a search leaves that nothing happens to, and the seconds that it takes."""
    place = shutil.copytree(inputs, tmp_path_factory.mktemp("whole") / "place")
    process, begun = started(place), time.monotonic()
    assert process.wait() == 0, errors_of(place).read_text()
    return contents(place), time.monotonic() - begun


def problems_of(place, whole, moment):
    """Kills a search after some seconds and runs it again; returns what is wrong afterwards."""
    process = started(place)
    time.sleep(moment)
    process.kill()
    if process.wait() not in (0, -signal.SIGKILL):
        return [errors_of(place).read_text()]
    before = finished(place)
    again = started(place)
    wrong = [errors_of(place).read_text()] if again.wait() else []
    wrong += [f"{each} differs" for each in difference(contents(place), whole)]
    after = finished(place)
    return wrong + [f"{each} was made again" for each in before if after.get(each) != before[each]]


@pytest.mark.exhaustive
@pytest.mark.parametrize("share", range(SHARES))
def test_a_search_killed_at_random_moments_goes_on_to_the_same_bytes(
    share, inputs, whole, tmp_path
):
    expected, seconds = whole
    moments = random.Random(share)
    broken = {}
    for number in range(KILLS // SHARES):
        moment = moments.uniform(0.0, seconds)
        place = shutil.copytree(inputs, tmp_path / str(number) / "place")
        if wrong := problems_of(place, expected, moment):
            broken[number, moment] = wrong
    assert not broken
