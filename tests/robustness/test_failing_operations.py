"""Whatever file operation of a search fails, it says so, and the next run ends in the same bytes.

A failure that is made up for, such as that to delete a temporary file, need not be said.
"""

import random
import shutil

import pytest

from tests.robustness.operations import FAILURES
from tests.robustness.results import contents, difference, without_places

SHARES = 4


def problems_of(nursery, whole, number, *, again):
    """Lets one operation fail and runs the search again; returns what is wrong with both runs."""
    name = f"fail-{number}"
    place = nursery.directory / name
    if again:
        shutil.copytree(whole.place, place)
    [end] = nursery.run({"name": name, "fail": number})
    wrong = []
    if end["code"] or "failed" not in end:
        wrong.append(f"it ended with {end}")
    elif "error" not in end:
        left = difference(without_places(contents(place)), whole.contents)
        wrong += [f"{each} differs after the failure, which was not said" for each in left]
    elif not end["expected"]:
        wrong.append(f"it is no error of a file: {end['error']}")
    elif str(nursery.directory) not in end["error"]:
        wrong.append(f"it names no file: {end['error']}")
    what = end.get("errno")
    [end] = nursery.run({"name": name})
    wrong += [] if end == {"code": 0} else [f"the next run ended with {end}"]
    wrong += [f"{each} differs" for each in difference(contents(place), whole.contents)]
    shutil.rmtree(place)
    return [f"{what}: {each}" for each in wrong]


def check(nursery, whole, points, *, again=False):
    operations = whole.again if again else whole.operations
    broken = {
        (number, *operations[number][:3]): wrong
        for number in points
        if (wrong := problems_of(nursery, whole, number, again=again))
    }
    assert not broken


def points_of(operations):
    """Returns the first operation of each kind: of what, on which file, in which line of puzzle."""
    kinds = {}
    for number, operation in enumerate(operations):
        kinds.setdefault(tuple(operation), number)
    points = list(kinds.values())
    assert {operations[number][0] for number in points} == FAILURES.keys() - {"link"}
    return points


def test_a_search_in_which_an_operation_fails_says_so_and_goes_on(nursery, whole):
    check(nursery, whole, random.Random(0).sample(points_of(whole.operations), 3))
    # Whoever cannot read what is there must not take it for something else.
    again = points_of(whole.again)
    format_is_read = [n for n in again if whole.again[n][:2] == ["read", "run/run.json"]]
    assert format_is_read
    check(nursery, whole, format_is_read + random.Random(1).sample(again, 1), again=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_a_search_in_which_each_kind_of_operation_fails_once(nursery, whole, share, again):
    operations = whole.again if again else whole.operations
    check(nursery, whole, points_of(operations)[share::SHARES], again=again)
