"""Where a worker or the driver is killed, a search on two processes ends in the same bytes."""

import random
import shutil
import signal
import time

import psutil
import pytest

from tests.robustness.results import contents, difference, finished, without_places
from tests.robustness.test_random_kills import errors_of, started, whole_inputs

KILLS = 3
WORKERS = ("--executor", "processes:2")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return whole_inputs(tmp_path_factory.mktemp("inputs") / "place")


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    """What a search on workers leaves that nothing happens to."""
    place = shutil.copytree(inputs, tmp_path_factory.mktemp("undisturbed") / "place")
    assert started(place, *WORKERS).wait() == 0, errors_of(place).read_text()
    return lasting(place)


def lasting(place):
    """Returns what is left, without temporary places and streams, which the next run deletes."""
    left = without_places(contents(place))
    return {name: value for name, value in left.items() if "boundary" not in name}


def at_random(place, process, number):
    """Waits until some layers are there, and a moment more."""
    moments = random.Random(number)
    library = place / "run" / "library-layer"
    while len([*library.glob("*/manifest.json")]) < number % 3 and process.poll() is None:
        time.sleep(0.002)
    time.sleep(moments.uniform(0.0, 0.5))


def workers_of(process):
    """Returns the processes that build layers for a search, if it still runs."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", range(KILLS))
def test_a_search_of_which_a_worker_is_killed_ends(number, inputs, undisturbed, tmp_path):
    place = shutil.copytree(inputs, tmp_path / "place")
    process = started(place, *WORKERS)
    at_random(place, process, number)
    if workers := workers_of(process):
        workers[-1].kill()
    assert process.wait() == 0, errors_of(place).read_text()
    assert not difference(lasting(place), undisturbed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", range(KILLS))
def test_a_search_of_which_the_driver_is_killed_goes_on(number, inputs, undisturbed, tmp_path):
    place = shutil.copytree(inputs, tmp_path / "place")
    process = started(place, *WORKERS)
    at_random(place, process, number)
    workers = workers_of(process)
    process.kill()
    assert process.wait() in (0, -signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    before = finished(place)
    assert started(place, *WORKERS).wait() == 0, errors_of(place).read_text()
    after = finished(place)
    assert {name: after.get(name) for name in before} == before
    assert not difference(lasting(place), undisturbed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", range(KILLS))
def test_of_two_drivers_at_once_one_is_killed(number, inputs, undisturbed, tmp_path):
    place = shutil.copytree(inputs, tmp_path / "place")
    first, second = (started(place, *WORKERS) for _ in range(2))
    at_random(place, first, number)
    first.kill()
    assert first.wait() in (0, -signal.SIGKILL)
    assert second.wait() == 0, errors_of(place).read_text()
    assert not difference(lasting(place), undisturbed)
