"""A tiny parent, its library and a search of it, for the tests of every package."""

import math
import shutil

import pytest

import puzzle
from puzzle.costs.measured import replies
from puzzle.hardware.stopwatch import take_turns
from puzzle.library.build import build_library
from search_space import SearchSpace
from tests.factories.other_process import OtherProcess
from tests.factories.parents import DATA, SCENARIO, opened, save_parent, text


@pytest.fixture(autouse=True)
def rough_timing(monkeypatch):
    """As few rounds of timing as there may be: nothing here is said of how exact they are."""
    monkeypatch.setattr(replies, "LEAST_ROUNDS", 2)
    monkeypatch.setattr(replies, "GOAL", math.inf)
    monkeypatch.setitem(take_turns.__kwdefaults__, "goal", math.inf)


@pytest.fixture(scope="session")
def other_process(tmp_path_factory):
    """Runs code in processes of their own, which need not import torch first."""
    process = OtherProcess(tmp_path_factory.mktemp("other"))
    yield process
    process.close()


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """A search of a tiny random parent, with all that a search leaves."""
    folder = tmp_path_factory.mktemp("report")
    return puzzle.search(
        save_parent(folder / "parent"),
        text(),
        constraints=["parameters <= 0.8x", "throughput >= 0.5x"],
        scenario=SCENARIO,
        precision="float32",
        data=DATA,
        space="default",
        effort="fast",
        out=folder / "run",
    )


@pytest.fixture(scope="session")
def saved_child(found, tmp_path_factory):
    """The directory in which that search's result was saved."""
    return found.save(tmp_path_factory.mktemp("saved") / "child")


@pytest.fixture
def saved(tmp_path):
    """The directory of a tiny random parent."""
    return save_parent(tmp_path / "parent")


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    """The directory of a tiny random parent and of a run that holds its library."""
    folder = tmp_path_factory.mktemp("built")
    workspace, parent, _, cut = opened(save_parent(folder / "parent"), folder)
    build_library(parent, SearchSpace.preset(parent.shape, "small"), cut, workspace=workspace)
    return folder


@pytest.fixture
def built(built_once, tmp_path):
    """Workspace, parent, space, windows and library of the small preset, the test's own."""
    shutil.copytree(built_once, tmp_path, dirs_exist_ok=True)
    workspace, parent, _, cut = opened(tmp_path / "parent", tmp_path)
    space = SearchSpace.preset(parent.shape, "small")
    library = build_library(parent, space, cut, workspace=workspace)
    return workspace, parent, space, cut, library
