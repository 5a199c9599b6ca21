import pytest

import puzzle
from tests.puzzle.test_search import DATA, SCENARIO, parent_model, text, tokenizer


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    """A search of a tiny random parent, with all that a search leaves."""
    folder = tmp_path_factory.mktemp("report")
    parent_model().save_pretrained(folder / "parent")
    tokenizer().save_pretrained(folder / "parent")
    return puzzle.search(
        folder / "parent",
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
    return found.save(tmp_path_factory.mktemp("saved") / "child")


@pytest.fixture(scope="session")
def distillation():
    """The record of a distillation."""
    return {
        "history": [{"step": i, "tokens": 64.0 * i, "loss": 2.0 - i / 500} for i in range(1, 501)],
        "evaluations": [{"step": 0, "kl": 0.5}, {"step": 500, "kl": 0.1}],
    }
