"""What a distillation leaves, and the pages of a search, for the tests of reports."""

import pytest

from puzzle.report.page import page


@pytest.fixture(scope="session")
def distillation():
    """The record of a distillation."""
    return {
        "history": [{"step": i, "tokens": 64.0 * i, "loss": 2.0 - i / 500} for i in range(1, 501)],
        "evaluations": [{"step": 0, "kl": 0.5}, {"step": 500, "kl": 0.1}],
    }


@pytest.fixture(scope="session")
def written(found, tmp_path_factory, distillation):
    """The file of the page of a search and of a distillation."""
    path = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    assert found.report(path, distillation=distillation) == path
    return path


@pytest.fixture(scope="session")
def page_alone(found):
    """The page of the search without a distillation."""
    return page(found)
