"""Wherever a search is killed, the same command ends in the same bytes, and redoes nothing."""

import random
import shutil
import signal

import pytest

from tests.robustness.results import contents, difference, finished

SHARES = 8


def problems_of(nursery, whole, way, number):
    """Stops a search before an operation and runs it again; returns what is wrong afterwards."""
    name = f"{way}-{number}"
    place = nursery.directory / name
    [end] = nursery.run({"name": name, way: number})
    if end != {"code": -signal.SIGKILL}:
        return [f"it ended with {end} instead of being killed"]
    before = finished(place)
    [end] = nursery.run({"name": name})
    wrong = [] if end == {"code": 0} else [f"the second run ended with {end}"]
    wrong += [f"{each} differs" for each in difference(contents(place), whole.contents)]
    after = finished(place)
    wrong += [f"{each} was made again" for each in before if after.get(each) != before[each]]
    shutil.rmtree(place)
    return wrong


def check(nursery, whole, points):
    broken = {
        (way, number, *whole.operations[number][:3]): wrong
        for way, number in points
        if (wrong := problems_of(nursery, whole, way, number))
    }
    assert not broken


def points_of(whole):
    changes = [number for number, each in enumerate(whole.operations) if each[3]]
    assert len(changes) > 180
    # What was not synced is gone after a power cut; until a file is renamed, nobody reads it.
    cuts = [number for number in changes if whole.operations[number][0] in ("rename", "sync")]
    return [("kill", number) for number in changes], [("cut", number + 1) for number in cuts]


def test_a_search_stopped_anywhere_goes_on_to_the_same_bytes(nursery, whole):
    kills, cuts = points_of(whole)
    chosen = random.Random(0)
    check(nursery, whole, chosen.sample(kills, 3) + chosen.sample(cuts, 1))


@pytest.mark.exhaustive
@pytest.mark.parametrize("share", range(SHARES))
def test_a_search_killed_before_each_change_of_the_disk_goes_on(nursery, whole, share):
    kills, _ = points_of(whole)
    check(nursery, whole, kills[share::SHARES])


@pytest.mark.exhaustive
def test_a_power_cut_after_each_rename_and_sync_loses_nothing_finished(nursery, whole):
    _, cuts = points_of(whole)
    check(nursery, whole, cuts)
