"""The process that searches are forked from, and a search that nothing happens to."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.robustness.nursery import Nursery
from tests.robustness.results import contents, difference


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    """The process that searches are forked from."""
    process = Nursery(tmp_path_factory.mktemp("robustness"))
    yield process
    process.close()


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A search that nothing happened to.

    Args:
        place: Where it is.
        contents: What it left behind.
        operations: Its file operations: name, file, line of puzzle, whether it changes the disk.
        again: Those of the same command once more, when everything is there.
    """

    place: Path
    contents: dict
    operations: list
    again: list


@pytest.fixture(scope="session")
def whole(nursery):
    """A search that nothing happened to, and its file operations."""
    ends = [nursery.run({"name": "listed", "list": True})[0] for _ in range(2)]
    assert [(end["code"], end.get("error")) for end in ends] == [(0, None)] * 2
    place = nursery.directory / "whole"
    left = contents(place)
    # Two searches are the same, and it makes no difference that the second one was watched.
    assert difference(left, contents(nursery.directory / "listed")) == []
    first, second = (end["operations"] for end in ends)
    assert len(first) > 500
    return Whole(place=place, contents=left, operations=first, again=second)
