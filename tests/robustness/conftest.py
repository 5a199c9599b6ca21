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
    """

    place: Path
    contents: dict
    operations: list


@pytest.fixture(scope="session")
def whole(nursery):
    """A search that nothing happened to, and its file operations."""
    [end] = nursery.run({"name": "listed", "list": True})
    assert end["code"] == 0, end
    assert "error" not in end, end
    place = nursery.directory / "whole"
    left = contents(place)
    # Two searches are the same, and it makes no difference that the second one was watched.
    assert difference(left, contents(nursery.directory / "listed")) == []
    assert len(end["operations"]) > 500
    return Whole(place=place, contents=left, operations=end["operations"])
