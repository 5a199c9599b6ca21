"""A library of a tiny parent that is shared, and a Hub's cache of a test's own."""

import pytest

from puzzle.costs.counted import with_counts
from puzzle.costs.profile import Profile
from puzzle.costs.roofline import Roofline
from puzzle.library.build import build_library
from puzzle.limits.scenario import Scenario
from puzzle.scoring.fisher_scores import fisher
from puzzle.sharing import share
from search_space import SearchSpace
from tests.factories.parents import opened, save_parent

SCENARIO = Scenario(batch=2, prompt_tokens=8, generated_tokens=4, weight_dtype="float32")


@pytest.fixture(scope="package")
def parent_directory(tmp_path_factory):
    return save_parent(tmp_path_factory.mktemp("sharing") / "parent")


@pytest.fixture(scope="package")
def shared(parent_directory, tmp_path_factory):
    """A library of a tiny parent, shared with scores and one profile; and what it is made of."""
    folder = tmp_path_factory.mktemp("sharing")
    workspace, parent, _, cut = opened(parent_directory, folder)
    space = SearchSpace.preset(parent.shape, "small")
    library = build_library(parent, space, cut, workspace=workspace)
    scores = fisher(library, space, cut, workspace=workspace)
    costs = with_counts(Roofline("h100-sxm", parent.shape), parent.shape)
    profile = Profile.take(costs, space, SCENARIO, device={"name": "H100, modelled"})
    path = share(
        library, scores, space, folder / "shared", name="me/parent", profiles={"h100": profile}
    )
    return path, parent, scores, profile, library


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache of its own for what is downloaded."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
