"""Processes that search in one directory at once, one of them killed, end in the same bytes."""

import random
import shutil
import signal

import pytest

from tests.robustness.results import contents, difference


def problems_of(nursery, whole, count, number):
    """Starts searches together, kills the first before an operation; returns what is wrong."""
    name = f"together-{count}-{number}"
    place = nursery.directory / name
    ends = nursery.run({"name": name, "kill": number}, *[{"name": name}] * (count - 1))
    wrong = []
    # It may do less than if it were alone, and then it ends before the operation.
    if ends[0] not in ({"code": -signal.SIGKILL}, {"code": 0}):
        wrong.append(f"the first ended with {ends[0]}")
    wrong += [f"another ended with {end}" for end in ends[1:] if end != {"code": 0}]
    [again] = nursery.run({"name": name})
    wrong += [] if again == {"code": 0} else [f"one more run ended with {again}"]
    wrong += [f"{each} differs" for each in difference(contents(place), whole.contents)]
    shutil.rmtree(place)
    return wrong


def check(nursery, whole, count, points):
    broken = {n: wrong for n in points if (wrong := problems_of(nursery, whole, count, n))}
    assert not broken


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_searches_in_one_directory_of_which_one_is_killed(nursery, whole, count):
    operations = range(100, len(whole.operations))
    check(nursery, whole, count, random.Random(count).sample(operations, 1))


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [2, 3])
def test_searches_in_one_directory_of_which_one_is_killed_anywhere(nursery, whole, count):
    check(nursery, whole, count, range(5, len(whole.operations), 80))
